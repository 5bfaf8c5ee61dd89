// Which cluster has which slot: given out under a lock, so that clusters can be started at the same time.
package main

import (
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

var lockFile = sync.OnceValues(func() (*os.File, error) {
	if err := os.MkdirAll(cacheDir(), 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(filepath.Join(cacheDir(), "lock"), os.O_RDWR|os.O_CREATE, 0o600)
})

// lock waits for the lock of that name. All locks are bytes of one file: there is nothing to clean up, and the kernel
// releases them when the process ends, however it ends.
func lock(name string) (unlock func(), err error) {
	file, err := lockFile()
	if err != nil {
		return nil, err
	}
	hash := fnv.New32a()
	hash.Write([]byte(name))
	area := syscall.Flock_t{Type: syscall.F_WRLCK, Start: int64(hash.Sum32()), Len: 1}
	for err = syscall.EINTR; err == syscall.EINTR; {
		err = syscall.FcntlFlock(file.Fd(), syscall.F_SETLKW, &area)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
	}
	return func() {
		area.Type = syscall.F_UNLCK
		_ = syscall.FcntlFlock(file.Fd(), syscall.F_SETLK, &area)
	}, nil
}

// claim records a new cluster in the lowest free slot, and what it is about to change on the host.
func claim(name string, nodes int, defaultBackoff bool, bin map[string]string) (*cluster, error) {
	unlock, err := lock("slots")
	if err != nil {
		return nil, err
	}
	defer unlock()

	others, err := claims()
	if err != nil {
		return nil, err
	}
	if len(others) == 0 {
		if err := saveSysctls(); err != nil {
			return nil, err
		}
	}
	if err := raiseInotify(); err != nil {
		return nil, err
	}
	taken := map[int]bool{}
	for _, other := range others {
		taken[other.Slot] = true
	}
	for slot := range slots {
		c := &cluster{Name: name, Slot: slot, Nodes: nodes, Boot: bootID(), Bin: bin, DefaultBackoff: defaultBackoff}
		if taken[slot] || c.collides() {
			continue
		}
		if c.Cgroups, err = hierarchies(c.Name); err != nil {
			return nil, err
		}
		return c, c.save()
	}
	return nil, fmt.Errorf("no free slot: %d clusters are recorded in %s, and an interface of the host may use one of their ranges",
		len(others), cacheDir())
}

// release forgets a cluster of which nothing is left, and with the last one restores what they changed on the host.
func (c *cluster) release() error {
	unlock, err := lock("slots")
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.RemoveAll(c.Dir()); err != nil {
		return err
	}
	others, err := claims()
	if err != nil || len(others) > 0 {
		return err
	}
	return restoreSysctls()
}

// claims are the clusters that are recorded on this machine.
func claims() ([]*cluster, error) {
	folders, err := filepath.Glob(stateDir("*"))
	if err != nil {
		return nil, err
	}
	var found []*cluster
	for _, folder := range folders {
		c, err := recorded(strings.TrimPrefix(filepath.Base(folder), "state-"))
		if err != nil {
			return nil, err
		}
		if c != nil {
			found = append(found, c)
		}
	}
	return found, nil
}

// collides tells whether an interface of the host has an address in one of the cluster's ranges.
func (c *cluster) collides() bool {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	for _, text := range []string{c.nodeRange(), c.PodRange(), c.ServiceRange()} {
		ours := netip.MustParsePrefix(text)
		for _, address := range addresses {
			if theirs, err := netip.ParsePrefix(address.String()); err == nil && ours.Overlaps(theirs) {
				return true
			}
		}
	}
	return false
}
