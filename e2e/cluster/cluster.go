// A cluster: its name, its place among the clusters of this machine, and the addresses and paths that follow from them.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// cluster is kept as cluster.json in the state folder, from before the first thing is made until the last is undone.
type cluster struct {
	Name  string
	Slot  int               // which share of the machine's names and addresses is ours, see slots
	Nodes int               // numbered from 1
	Boot  string            // id of the machine's boot: after another one, nothing recorded here runs any more
	Bin   map[string]string // folder of the binaries of each module
	// Cgroups are the hierarchies, and in each the group below which the nodes' groups are.
	Cgroups []hierarchy
	// DefaultBackoff leaves crashing containers to Kubernetes' own back-off: 10 s and more, up to 5 min.
	DefaultBackoff bool
}

// slots is how many clusters can be up at the same time.
const slots = 10

// The ranges of a cluster. Nothing addressed to them may leave the machine: see network.go.
func (c *cluster) nodeRange() string    { return fmt.Sprintf("172.30.%d.0/24", c.Slot) }
func (c *cluster) PodRange() string     { return fmt.Sprintf("10.%d.0.0/16", 240+c.Slot) }
func (c *cluster) ServiceRange() string { return fmt.Sprintf("10.%d.0.0/16", 96+c.Slot) }

// Single addresses. The host's is where the control plane, DNS and registry listen; the loopback one is for what only
// the control plane itself uses.
func (c *cluster) HostIP() string     { return fmt.Sprintf("172.30.%d.1", c.Slot) }
func (c *cluster) clientIP() string   { return fmt.Sprintf("172.30.%d.2", c.Slot) }
func (c *cluster) LoopbackIP() string { return fmt.Sprintf("127.30.%d.1", c.Slot) }
func (c *cluster) APIServiceIP() string {
	return fmt.Sprintf("10.%d.0.1", 96+c.Slot)
}
func (c *cluster) DNSServiceIP() string {
	return fmt.Sprintf("10.%d.0.10", 96+c.Slot)
}

func (c *cluster) APIServer() string { return "https://" + c.HostIP() + ":6443" }
func (c *cluster) Registry() string  { return c.HostIP() + ":5000" }

// gate is where the registry asks who is there, see gates.go.
func (c *cluster) gate(kind string) string { return fmt.Sprintf("%s:%d", c.HostIP(), gatePorts[kind]) }

// cacheDir is $PODLESS_CACHE, by default $HOME/.cache/podless, and in it the folder of this program.
func cacheDir() string {
	root := os.Getenv("PODLESS_CACHE")
	if root == "" {
		root = filepath.Join(os.Getenv("HOME"), ".cache", "podless")
	}
	return filepath.Join(root, "cluster")
}

func stateDir(name string) string { return filepath.Join(cacheDir(), "state-"+name) }

func (c *cluster) Dir(elem ...string) string {
	return filepath.Join(append([]string{stateDir(c.Name)}, elem...)...)
}

func (c *cluster) bin(module, program string) string { return filepath.Join(c.Bin[module], program) }
func (c *cluster) kubeconfig(user string) string     { return c.Dir("pki", user+".kubeconfig") }
func (c *cluster) logFile(process string) string     { return c.Dir("log", process+".log") }

// save writes cluster.json in one step, so that a reader never sees half of it.
func (c *cluster) save() error {
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Dir(), 0o700); err != nil {
		return err
	}
	temporary := c.Dir("cluster.json.new")
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, c.Dir("cluster.json"))
}

// recorded reads the state of a cluster; nil when there is none.
func recorded(name string) (*cluster, error) {
	data, err := os.ReadFile(filepath.Join(stateDir(name), "cluster.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c := &cluster{}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("%s is damaged: remove that folder: %w", stateDir(name), err)
	}
	return c, nil
}

// held is the cluster when it is up, and nobody else changes it until unlock.
func held(name string) (c *cluster, unlock func(), err error) {
	if c, err = running(name); err != nil {
		return nil, nil, err
	}
	unlock, err = lock("cluster " + name)
	return c, unlock, err
}

// running is the cluster when it is up, or else an error that says how to get there.
func running(name string) (*cluster, error) {
	c, err := recorded(name)
	if err != nil {
		return nil, err
	}
	if c == nil || !c.alive("registry") { // not the API server: that may be stopped on purpose
		return nil, fmt.Errorf("cluster %s is not up: run `cluster --name %s up`", name, name)
	}
	return c, nil
}

func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
}
