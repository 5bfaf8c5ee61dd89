// The client machine: a namespace beside the nodes, from which tests send their load.
package main

import (
	"fmt"
	"os"
	"syscall"
)

// makeClientFiles writes what name lookups on the client are configured by.
func (c *cluster) makeClientFiles() error {
	resolver := "nameserver " + c.DNSServiceIP() + "\nsearch default.svc.cluster.local svc.cluster.local cluster.local\n"
	if err := os.WriteFile(c.Dir("client-resolv.conf"), []byte(resolver), 0o644); err != nil {
		return err
	}
	// What may come before DNS on the host (systemd-resolved, mDNS) does not know the cluster.
	return os.WriteFile(c.Dir("client-nsswitch.conf"), []byte("hosts: files dns\n"), 0o644)
}

// clientExec replaces this process by a command on the client machine.
func (c *cluster) clientExec(argv []string) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	enter := []string{"ip", "netns", "exec", c.netns("client"),
		program, "inside-client-exec", c.Dir("client-resolv.conf"), c.Dir("client-nsswitch.conf")}
	return become(append(enter, argv...))
}

// clientInside runs in the mount namespace that `ip netns exec` has made, and hides the host's files behind the client's.
func clientInside(args []string) error {
	if len(args) < 3 {
		return errUsage
	}
	for i, target := range []string{"/etc/resolv.conf", "/etc/nsswitch.conf"} {
		if !exists(target) {
			continue
		}
		if err := syscall.Mount(args[i], target, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", target, err)
		}
	}
	return become(args[2:])
}
