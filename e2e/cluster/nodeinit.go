// PID 1 of a node: enters what makes the node, configures its services and has them kept running.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
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

// nodeFromArgs gets the path of cluster.json and the node's number.
func nodeFromArgs(args []string) (node, error) {
	if len(args) != 2 {
		return node{}, errUsage
	}
	c, err := clusterFromFile(args[0])
	if err != nil {
		return node{}, err
	}
	number, err := strconv.Atoi(args[1])
	return node{c, number}, err
}

// clusterFromFile reads cluster.json for who has no PODLESS_CACHE: the path says where the state is.
func clusterFromFile(path string) (*cluster, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	os.Setenv("PODLESS_CACHE", filepath.Join(path, "..", "..", ".."))
	c := &cluster{}
	return c, json.Unmarshal(data, c)
}

// configure writes the files of the node's services into /run.
func (n node) configure() error {
	values := map[string]any{
		"Name": n.Name(), "PodRange": n.PodRange(), "ClusterPodRange": n.cluster.PodRange(), "DNSServiceIP": n.DNSServiceIP(),
		"Registry": n.Registry(), "PauseImage": pauseImage, "PKI": n.cluster.Dir("pki"), "Bin": n.Bin,
		"DefaultBackoff": n.DefaultBackoff,
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
