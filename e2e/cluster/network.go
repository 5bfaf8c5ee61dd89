// The cluster's network: one switch, and around it the host, the client and the nodes, each in a network namespace.
//
// Only the host has a way out of the machine, and there the cluster's ranges end: a blackhole route lies under each of
// them, and a firewall rule keeps what comes from the cluster from being forwarded.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// blackholeMetric puts the blackhole routes behind every real route.
const blackholeMetric = "1000000"

func (c *cluster) netns(machine string) string { return "podless-" + c.Name + "-" + machine }

// hostLink is the host's interface on the switch; interface names have at most 15 characters.
func (c *cluster) hostLink() string { return fmt.Sprintf("podless%d", c.Slot) }

// makeNetwork makes the switch and attaches the host and the client to it.
func (c *cluster) makeNetwork() error {
	for _, block := range []string{c.nodeRange(), c.PodRange(), c.ServiceRange()} {
		if err := command("ip", "route", "replace", "blackhole", block, "metric", blackholeMetric); err != nil {
			return err
		}
	}
	if err := render("firewall.nft", c.Dir("firewall.nft"), map[string]string{
		"Table": c.netns("host"), "Link": c.hostLink(), "Nodes": c.nodeRange(),
	}); err != nil {
		return err
	}
	// The switch has a namespace too: the host's own filters for bridges (Docker's, say) do not see its traffic.
	lan := c.netns("lan")
	return commands(
		"nft -f "+c.Dir("firewall.nft"),
		"ip netns add "+lan,
		"ip -n "+lan+" link add lan type bridge",
		"ip -n "+lan+" link set lan up",

		"ip link add "+c.hostLink()+" type veth peer name host netns "+lan,
		"ip -n "+lan+" link set host master lan up",
		"ip addr add "+c.HostIP()+"/24 dev "+c.hostLink(),
		"ip link set "+c.hostLink()+" up",

		"ip netns add "+c.netns("client"),
		c.plug("client", c.clientIP()),
	)
}

// plug is the commands which attach a namespace to the switch by its eth0. The hardware address follows from the IP
// address: a machine that comes back is found at once by those who knew it before.
func (c *cluster) plug(machine, address string) string {
	lan, ns := c.netns("lan"), c.netns(machine)
	ip := net.ParseIP(address).To4()
	hardware := net.HardwareAddr{0x02, 0, ip[0], ip[1], ip[2], ip[3]}
	return strings.Join([]string{
		"ip -n " + lan + " link add " + machine + " type veth peer name eth0 address " + hardware.String() + " netns " + ns,
		"ip -n " + lan + " link set " + machine + " master lan up",
		"ip -n " + ns + " link set lo up",
		"ip -n " + ns + " addr add " + address + "/24 dev eth0",
		"ip -n " + ns + " link set eth0 up",
	}, "\n")
}

// makeNetwork attaches a node to the switch, with routes to the pods of the others and no default route. Services are
// translated on the node itself; what is still addressed to one after that goes to the host, which drops it.
func (n node) makeNetwork() error {
	ns := n.netns(n.Name())
	script := []string{
		"ip netns add " + ns,
		n.plug(n.Name(), n.IP()),
		"ip -n " + ns + " route add " + n.ServiceRange() + " via " + n.HostIP(),
	}
	for _, other := range n.allNodes() {
		if other.Number != n.Number {
			script = append(script, "ip -n "+ns+" route add "+other.PodRange()+" via "+other.IP())
		}
	}
	for _, outside := range []string{"", "-n " + n.netns("client") + " "} {
		script = append(script, "ip "+outside+"route replace "+n.PodRange()+" via "+n.IP())
	}
	return commands(script...)
}

// routeServices lets host and client reach service addresses through the first node that is alive.
func (c *cluster) routeServices() error {
	for _, n := range c.allNodes() {
		if n.alive() {
			return commands(
				"ip route replace "+c.ServiceRange()+" via "+n.IP(),
				"ip -n "+c.netns("client")+" route replace "+c.ServiceRange()+" via "+n.IP(),
			)
		}
	}
	return nil
}

// removeNetwork undoes makeNetwork of the cluster and of its nodes, or what there is of it.
func (c *cluster) removeNetwork() error {
	namespaces, err := filepath.Glob("/run/netns/" + c.netns("*"))
	for _, ns := range namespaces {
		err = errors.Join(err, command("ip", "netns", "del", filepath.Base(ns)))
	}
	if _, missing := net.InterfaceByName(c.hostLink()); missing == nil {
		err = errors.Join(err, command("ip", "link", "del", c.hostLink()))
	}
	for _, block := range []string{c.nodeRange(), c.PodRange(), c.ServiceRange()} {
		err = errors.Join(err, unless("No such process", command("ip", "route", "del", "blackhole", block, "metric", blackholeMetric)))
	}
	err = errors.Join(err, unless("No such file", command("nft", "delete", "table", "inet", c.netns("host"))))
	return errors.Join(err, removeNetnsFolder())
}

// removeNetwork takes the node off the network.
func (n node) removeNetwork() error {
	if _, err := os.Stat("/run/netns/" + n.netns(n.Name())); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// Deleting a namespace lets its interfaces go in the background; the name on the switch must be free at once.
	return commands("ip -n "+n.netns("lan")+" link del "+n.Name(), "ip netns del "+n.netns(n.Name()))
}

// removeNetnsFolder removes the mount that `ip netns add` makes with the first namespace of a machine, after the last.
func removeNetnsFolder() error {
	unlock, err := lock("netns")
	if err != nil {
		return err
	}
	defer unlock()
	if names, err := os.ReadDir("/run/netns"); err != nil || len(names) > 0 {
		return nil
	}
	_ = command("umount", "/run/netns")
	return os.Remove("/run/netns")
}

// commands runs lines of words separated by spaces, and stops at the first that fails.
func commands(script ...string) error {
	for line := range strings.SplitSeq(strings.Join(script, "\n"), "\n") {
		if err := command(strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

// unless drops an error which says that there is nothing to do.
func unless(phrase string, err error) error {
	if err != nil && strings.Contains(err.Error(), phrase) {
		return nil
	}
	return err
}
