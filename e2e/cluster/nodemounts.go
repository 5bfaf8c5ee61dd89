// The file system of a node: the host's, but for what a machine has for itself.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

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
