// Control groups of the nodes: each node has a group of its own, which inside the node looks like the root.
//
// A node sees the same layout as the host: version 2 alone, or version 1 with one hierarchy for each controller.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// hierarchy is one mounted tree of control groups.
type hierarchy struct {
	Mount   string // the folder below /sys/fs/cgroup; on a version 2 host "", as there is only one
	Options string // of the mount; "" for version 2
	Group   string // path on the host of the cluster's group
}

const (
	cgroupRoot   = "/sys/fs/cgroup"
	cgroup2Magic = 0x63677270 // statfs(2)
)

// hierarchies finds the host's trees and a place for a cluster in each.
func hierarchies(name string) ([]hierarchy, error) {
	own := filepath.Join("podless", name)
	var root syscall.Statfs_t
	if err := syscall.Statfs(cgroupRoot, &root); err != nil {
		return nil, err
	}
	if root.Type == cgroup2Magic {
		// Below the root, not below ourselves: a group with processes in it cannot have children with controllers.
		return []hierarchy{{Group: filepath.Join(cgroupRoot, own)}}, nil
	}

	// Version 1, maybe with version 2 beside it: below our own group, so that limits set on us hold for the cluster too.
	table, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	var found []hierarchy
	for line := range strings.Lines(string(table)) {
		field := strings.SplitN(strings.TrimSpace(line), ":", 3) // id, controllers, path
		h := hierarchy{Mount: strings.TrimPrefix(field[1], "name="), Options: field[1]}
		switch {
		case field[1] == "":
			h.Mount = "unified"
		case strings.HasPrefix(field[1], "name="):
			h.Options = "none," + field[1]
		}
		if _, err := os.Stat(filepath.Join(cgroupRoot, h.Mount)); err != nil {
			continue // known to the kernel, not mounted
		}
		h.Group = filepath.Join(cgroupRoot, h.Mount, field[2], own)
		found = append(found, h)
	}
	return found, nil
}

// makeCgroups makes a node's group in every hierarchy.
func (n node) makeCgroups() error {
	for _, h := range n.Cgroups {
		podless := filepath.Dir(h.Group)
		path := []string{filepath.Dir(podless), podless, h.Group, filepath.Join(h.Group, n.Name())}
		for i, child := range path[1:] {
			if err := os.MkdirAll(child, 0o755); err != nil {
				return err
			}
			var err error
			switch {
			case h.Options == "":
				err = delegate(path[i])
			case strings.Contains(h.Options, "cpuset"):
				err = inheritCPUs(path[i], child)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// delegate lets the children of a version 2 group use all of its controllers.
func delegate(group string) error {
	controllers, err := os.ReadFile(filepath.Join(group, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for controller := range strings.FieldsSeq(string(controllers)) {
		if err := os.WriteFile(filepath.Join(group, "cgroup.subtree_control"), []byte("+"+controller), 0); err != nil {
			return fmt.Errorf("control group %s: give %s to its children: %w", group, controller, err)
		}
	}
	return nil
}

// inheritCPUs fills in what a version 1 cpuset does not take from its parent by itself, and without which it takes no process.
func inheritCPUs(parent, child string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(parent, file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(child, file), value, 0); err != nil {
			return err
		}
	}
	return nil
}

// removeCgroups removes a group of the cluster ("" for the cluster's own) with all below it, once its processes have ended.
// A machine that loses power loses them too; left behind, they would confuse the node's next kubelet.
func (c *cluster) removeCgroups(child string) error {
	for _, h := range c.Cgroups {
		group := filepath.Join(h.Group, child)
		err := waitFor("the end of control group "+group, 20*time.Second, func() error { return removeTree(group) })
		if err != nil {
			return err
		}
		if child == "" {
			_ = syscall.Rmdir(filepath.Dir(h.Group)) // shared with other clusters: the last one succeeds
		}
	}
	return nil
}

// removeTree removes the folders of a control group, children first: their files cannot be removed.
func removeTree(group string) error {
	children, err := os.ReadDir(group)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, child := range children {
		if child.IsDir() {
			err = errors.Join(err, removeTree(filepath.Join(group, child.Name())))
		}
	}
	if err != nil {
		return err
	}
	return syscall.Rmdir(group)
}
