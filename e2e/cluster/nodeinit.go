// PID 1 of a node: makes the node's own view of the file system, then keeps its services running.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// nodeJoin enters the node's control groups, which the host can still be seen to have, and becomes nodeInit in a control
// group namespace of which they are the roots.
func nodeJoin(args []string) error {
	n, err := nodeFromArgs(args)
	if err != nil {
		return err
	}
	for _, h := range n.Cgroups {
		if err := os.WriteFile(filepath.Join(h.Group, n.Name(), "cgroup.procs"), []byte("0"), 0); err != nil {
			return err
		}
	}
	runtime.LockOSThread() // unshare is for one thread, and the thread that calls exec is the one that stays
	if err := syscall.Unshare(syscall.CLONE_NEWCGROUP); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", append([]string{os.Args[0], "inside-node-init"}, args...), os.Environ())
}

func nodeInit(args []string) error {
	n, err := nodeFromArgs(args)
	if err != nil {
		return err
	}
	if err := n.mountAll(); err != nil {
		return err
	}
	if err := n.configure(); err != nil {
		return err
	}

	s := newSupervisor()
	kube := n.bin("kube", "kube")
	go s.keep(n, "containerd", n.bin("containerd", "containerd"), "--config", "/run/podless/containerd.toml")
	go s.keep(n, "kube-proxy", kube, "kube-proxy", "--config", "/run/podless/kube-proxy.yaml")
	go func() {
		if err := n.importAll(s); err != nil {
			fmt.Println(err)
			os.Exit(1) // and with PID 1 the node
		}
		s.keep(n, "kubelet", kube, "kubelet", "--config", "/run/podless/kubelet.yaml",
			"--kubeconfig", n.kubeconfig(n.Name()), "--hostname-override", n.Name(), "--node-ip", n.IP(),
			"--root-dir", "/var/lib/kubelet")
	}()
	s.handleSignals()
	return nil
}

// nodeFromArgs gets the path of cluster.json and the node's number. The environment has no PODLESS_CACHE in here: the
// path says where the state is.
func nodeFromArgs(args []string) (node, error) {
	if len(args) != 2 {
		return node{}, errUsage
	}
	data, err := os.ReadFile(args[0])
	if err != nil {
		return node{}, err
	}
	os.Setenv("PODLESS_CACHE", filepath.Join(args[0], "..", "..", ".."))
	number, err := strconv.Atoi(args[1])
	c := &cluster{}
	return node{c, number}, errors.Join(err, json.Unmarshal(data, c))
}

// mountAll gives the node what a machine has for itself: host name, /proc, /sys, /run and /var. The rest is the host's.
func (n node) mountAll() error {
	if err := syscall.Sethostname([]byte(n.Name())); err != nil {
		return err
	}
	// Nothing that is mounted here shall be seen on the host, nor keep a namespace of another node alive.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, folder := range []string{"/run/netns", "/run", "/sys", "/proc"} {
		_ = syscall.Unmount(folder, syscall.MNT_DETACH) // where it is no mount, there is nothing to hide
	}
	m := &mounter{}
	m.mount("proc", "/proc", "proc", "")
	m.mount("sysfs", "/sys", "sysfs", "")
	m.mount("tmpfs", "/run", "tmpfs", "mode=755")
	for _, folder := range []string{"lib/kubelet", "lib/containerd", "lib/cni", "log/pods", "log/containers", "tmp"} {
		m.folder(n.Dir("var", folder))
	}
	m.bind(n.Dir("var"), "/var")
	m.link("/run", "/var/run")
	m.folder("/run/lock")
	m.mountCgroups(n.Cgroups)
	m.write("/proc/sys/net/ipv4/ip_forward", "1")
	// As on a machine with systemd: what kubelet mounts for a container shows up in the container.
	if m.err == nil {
		m.err = syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, "")
	}
	return m.err
}

// mounter does one step after the other until the first error, which it keeps.
type mounter struct{ err error }

func (m *mounter) do(what string, step func() error) {
	if m.err != nil {
		return
	}
	if err := step(); err != nil {
		m.err = fmt.Errorf("%s: %w", what, err)
	}
}

func (m *mounter) mount(source, target, kind, options string) {
	m.do("mount "+target, func() error { return syscall.Mount(source, target, kind, 0, options) })
}

func (m *mounter) bind(source, target string) {
	m.do("bind "+target, func() error { return syscall.Mount(source, target, "", syscall.MS_BIND, "") })
}

func (m *mounter) folder(path string) {
	m.do("make "+path, func() error { return os.MkdirAll(path, 0o755) })
}

func (m *mounter) link(to, path string) {
	m.do("link "+path, func() error { return unless("file exists", os.Symlink(to, path)) })
}

func (m *mounter) write(path, value string) {
	m.do("write "+path, func() error { return os.WriteFile(path, []byte(value), 0) })
}

func (m *mounter) mountCgroups(all []hierarchy) {
	if len(all) == 1 && all[0].Mount == "" { // version 2
		m.mount("cgroup2", cgroupRoot, "cgroup2", "")
		// A group whose children have controllers must be without processes: ours go to a leaf.
		m.folder(cgroupRoot + "/init")
		m.write(cgroupRoot+"/init/cgroup.procs", "0")
		m.do("control groups", func() error { return delegate(cgroupRoot) })
		return
	}
	m.mount("tmpfs", cgroupRoot, "tmpfs", "mode=755")
	for _, h := range all {
		folder := filepath.Join(cgroupRoot, h.Mount)
		m.folder(folder)
		if h.Options == "" {
			m.mount("cgroup2", folder, "cgroup2", "")
			continue
		}
		m.mount("cgroup", folder, "cgroup", h.Options)
		if controllers := strings.Split(h.Mount, ","); len(controllers) > 1 { // cpu,cpuacct is also found by each name
			for _, controller := range controllers {
				m.link(h.Mount, filepath.Join(cgroupRoot, controller))
			}
		}
	}
}

// configure writes the files of the node's services into /run.
func (n node) configure() error {
	values := map[string]any{
		"Name": n.Name(), "PodRange": n.PodRange(), "ClusterPodRange": n.cluster.PodRange(), "DNSServiceIP": n.DNSServiceIP(),
		"Registry": n.Registry(), "PKI": n.cluster.Dir("pki"), "Bin": n.Bin,
	}
	for template, path := range map[string]string{
		"containerd.toml": "/run/podless/containerd.toml",
		"registry.toml":   "/run/podless/registries/" + n.Registry() + "/hosts.toml",
		"cni.conflist":    "/run/podless/cni/10-podless.conflist",
		"kubelet.yaml":    "/run/podless/kubelet.yaml",
		"kube-proxy.yaml": "/run/podless/kube-proxy.yaml",
	} {
		if err := render(template, path, values); err != nil {
			return err
		}
	}
	return os.WriteFile("/run/podless/resolv.conf", []byte("nameserver "+n.DNSServiceIP()+"\n"), 0o644)
}

// importAll waits for containerd, gives it every image of the cluster and says that the node has booted.
func (n node) importAll(s *supervisor) error {
	ctr := n.bin("containerd", "ctr")
	err := waitFor("containerd", time.Minute, func() error { return s.run(n, ctr, "version") }, "/var/log/containerd.log")
	if err != nil {
		return err
	}
	images, err := filepath.Glob(n.image("*"))
	if err != nil {
		return err
	}
	for _, image := range images {
		if err := s.run(n, importImage(n, image)...); err != nil {
			return err
		}
	}
	return os.WriteFile(n.booted(), nil, 0o644)
}

func importImage(n node, tar string) []string {
	return []string{n.bin("containerd", "ctr"), "--namespace", "k8s.io", "images", "import", tar}
}
