// A node, seen from outside: booted, cut from power, entered, its services stopped and started.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type node struct {
	*cluster
	Number int
}

func (c *cluster) node(number int) node { return node{c, number} }

func (c *cluster) allNodes() []node {
	var all []node
	for i := range c.Nodes {
		all = append(all, c.node(i+1))
	}
	return all
}

func (n node) Name() string     { return fmt.Sprintf("node-%d", n.Number) }
func (n node) IP() string       { return fmt.Sprintf("172.30.%d.%d", n.Slot, 10+n.Number) }
func (n node) PodRange() string { return fmt.Sprintf("10.%d.%d.0/24", 240+n.Slot, n.Number) }
func (n node) alive() bool      { return n.cluster.alive(n.Name()) }

// Dir is the node's disk: what outlives a loss of power.
func (n node) Dir(elem ...string) string {
	return n.cluster.Dir(append([]string{n.Name()}, elem...)...)
}

// services of a node: its PID 1 keeps them running.
var services = []string{"containerd", "kube-proxy", "kubelet"}

// runs and stopped are files by which the node's PID 1 and this program talk about a service: the first is there while
// the service runs, the second while it shall not.
func (n node) runs(service string) string    { return n.Dir("services", service+".runs") }
func (n node) stopped(service string) string { return n.Dir("services", service+".stopped") }

// booted is there once containerd answers and has all images, and kubelet may start.
func (n node) booted() string { return n.Dir("services", "booted") }

// boot starts a node's PID 1 in new namespaces; waitBooted follows.
func (n node) boot() error {
	if err := os.RemoveAll(n.Dir("services")); err != nil {
		return err
	}
	if err := os.MkdirAll(n.Dir("services"), 0o755); err != nil {
		return err
	}
	if err := n.makeNetwork(); err != nil {
		return err
	}
	if err := n.makeCgroups(); err != nil {
		return err
	}
	// nsenter becomes this program's copy, which is then PID 1. The control group namespace comes later: see nodeJoin.
	init := exec.Command("nsenter", "--net=/run/netns/"+n.netns(n.Name()), "--",
		n.cluster.Dir("cluster"), "inside-node-join", n.cluster.Dir("cluster.json"), strconv.Itoa(n.Number))
	init.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWPID,
	}
	return n.spawn(n.Name(), init)
}

func (n node) waitBooted() error {
	return n.waitForProcess(n.Name(), "containerd of "+n.Name(), time.Minute, func() error {
		_, err := os.Stat(n.booted())
		return err
	})
}

func (n node) on() error {
	if n.alive() {
		return nil
	}
	if err := n.off(); err != nil { // what is left of it, if it died by itself
		return err
	}
	if err := n.boot(); err != nil {
		return err
	}
	if err := n.waitBooted(); err != nil {
		return err
	}
	return n.routeServices()
}

// off is a loss of power: the network goes first, so that nobody hears a connection close, then every process at once.
func (n node) off() error {
	if n.alive() {
		if err := command("ip", "-n", n.netns("lan"), "link", "set", n.Name(), "down"); err != nil {
			return err
		}
	}
	if err := n.kill(n.Name()); err != nil {
		return err
	}
	if err := n.removeCgroups(n.Name()); err != nil {
		return err
	}
	if err := n.removeNetwork(); err != nil {
		return err
	}
	return n.routeServices()
}

// exec replaces this process by a command in all of the node's namespaces.
func (n node) exec(argv []string) error {
	enter, err := n.enter(argv)
	if err != nil {
		return err
	}
	return become(enter)
}

func (n node) enter(argv []string) ([]string, error) {
	pid := n.pid(n.Name())
	if pid == 0 {
		return nil, fmt.Errorf("%s is off: run `cluster --name %s node on %d`", n.Name(), n.cluster.Name, n.Number)
	}
	enter := []string{"nsenter", "--target", strconv.Itoa(pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"}
	return append(append(enter, "env"), append(n.environment(), argv...)...), nil
}

// setService starts or stops a service and waits until that is done.
func (n node) setService(service string, run bool) error {
	if !slices.Contains(services, service) {
		return fmt.Errorf("no service %q on a node: there are %s", service, strings.Join(services, ", "))
	}
	pid := n.pid(n.Name())
	if pid == 0 {
		return fmt.Errorf("%s is off: run `cluster --name %s node on %d`", n.Name(), n.cluster.Name, n.Number)
	}
	var err error
	if run {
		err = os.Remove(n.stopped(service))
	} else {
		err = os.WriteFile(n.stopped(service), nil, 0o644)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
		return err
	}
	return n.waitForProcess(n.Name(), service+" of "+n.Name(), 10*time.Second, func() error {
		if _, err := os.Stat(n.runs(service)); (err == nil) != run {
			return errors.New("PID 1 of the node has not done it")
		}
		return nil
	})
}
