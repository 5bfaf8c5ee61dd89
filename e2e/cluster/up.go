// The verb up: from whatever is there to a cluster that is ready.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// controlPlane are the processes without which there is no cluster.
var controlPlane = []string{
	"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "registry", "registry-gates", "coredns",
}

func up(name string, args []string) error {
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	nodes := flags.Int("nodes", 0, "")
	defaultBackoff := flags.Bool("default-backoff", false, "")
	if flags.Parse(args) != nil || flags.NArg() > 0 {
		return errUsage
	}
	if *nodes < 0 || *nodes > 50 {
		return fmt.Errorf("%d nodes do not fit: choose 1 to 50", *nodes)
	}
	if err := prerequisites(); err != nil {
		return err
	}
	unlock, err := lock("cluster " + name)
	if err != nil {
		return err
	}
	defer unlock()

	start := time.Now()
	c, err := recorded(name)
	if err != nil {
		return err
	}
	if c != nil && c.healthy() {
		if *nodes != 0 && *nodes != c.Nodes {
			return fmt.Errorf("cluster %s is up with %d nodes: run `cluster --name %s down` first", name, c.Nodes, name)
		}
		if *defaultBackoff && !c.DefaultBackoff {
			return fmt.Errorf("cluster %s is up with a short back-off: run `cluster --name %s down` first", name, name)
		}
		if err := c.revive(); err != nil {
			return err
		}
	} else {
		if c != nil {
			if err := step("clean up after an earlier boot", c.remove); err != nil {
				return err
			}
		}
		if *nodes == 0 {
			*nodes = 3
		}
		if c, err = boot(name, *nodes, *defaultBackoff); err != nil {
			return err
		}
	}
	fmt.Fprintf(os.Stderr, "cluster %s is up with %d nodes (%.1f s): export KUBECONFIG=%s\n",
		name, c.Nodes, time.Since(start).Seconds(), c.kubeconfig("admin"))
	return nil
}

// boot starts a cluster of which nothing is there.
func boot(name string, nodes int, defaultBackoff bool) (*cluster, error) {
	bin, err := build(modules...)
	if err != nil {
		return nil, err
	}
	c, err := claim(name, nodes, defaultBackoff, bin)
	if err != nil {
		return nil, err
	}
	for _, s := range []struct {
		name string
		run  func() error
	}{
		{"certificates and network", func() error {
			for _, prepare := range []func() error{
				c.copySelf, c.makePauseImage, c.makePKI, c.makeKubeconfigs, c.makeClientFiles, c.makeNetwork,
			} {
				if err := prepare(); err != nil {
					return err
				}
			}
			return nil
		}},
		{"control plane", c.startControlPlane},
		{"registry and DNS", func() error {
			if err := c.startRegistry(); err != nil {
				return err
			}
			return c.startDNS()
		}},
		{fmt.Sprintf("boot %d nodes", nodes), func() error { return bootNodes(c.allNodes()) }},
		{"nodes ready", c.waitForNodes},
		{"DNS ready", c.waitForDNS},
	} {
		if err := step(s.name, s.run); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// healthy tells whether the control plane runs and answers; nodes may be off.
func (c *cluster) healthy() bool {
	if slices.ContainsFunc(controlPlane, func(process string) bool { return !c.alive(process) }) {
		return false
	}
	api, err := c.api()
	return err == nil && api.ready() == nil
}

// revive boots the nodes of a healthy cluster that are off, and waits until all are ready.
func (c *cluster) revive() error {
	var off []node
	for _, n := range c.allNodes() {
		if !n.alive() {
			if err := n.off(); err != nil { // what may be left of it
				return err
			}
			off = append(off, n)
		}
	}
	if len(off) > 0 {
		if err := step(fmt.Sprintf("boot %d nodes", len(off)), func() error { return bootNodes(off) }); err != nil {
			return err
		}
	}
	if err := c.waitForNodes(); err != nil {
		return err
	}
	return c.waitForDNS()
}

func bootNodes(nodes []node) error {
	for _, n := range nodes {
		if err := n.boot(); err != nil {
			return err
		}
	}
	for _, n := range nodes {
		if err := n.waitBooted(); err != nil {
			return err
		}
	}
	return nodes[0].routeServices()
}

func (c *cluster) waitForNodes() error {
	api, err := c.api()
	if err != nil {
		return err
	}
	var logs []string
	for _, n := range c.allNodes() {
		logs = append(logs, n.Dir("var", "log", "kubelet.log"))
	}
	return waitFor("all nodes to be Ready", 2*time.Minute, func() error {
		missing, err := api.notReady(c.allNodes())
		if err != nil || len(missing) == 0 {
			return err
		}
		var names []string
		for _, n := range missing {
			names = append(names, n.Name())
		}
		return fmt.Errorf("not ready: %s", strings.Join(names, ", "))
	}, logs...)
}

// copySelf keeps a copy of this program for the nodes to run, whatever becomes of the original.
func (c *cluster) copySelf() error {
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer program.Close()
	copied, err := os.OpenFile(c.Dir("cluster"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(copied, program)
	if closing := copied.Close(); err == nil {
		err = closing
	}
	return err
}
