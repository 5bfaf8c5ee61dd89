package main

import (
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"testing"
)

// newCluster is a cluster with a state folder of its own; nothing of it runs.
func newCluster(t *testing.T, slot int) *cluster {
	t.Helper()
	t.Setenv("PODLESS_CACHE", t.TempDir())
	c := &cluster{Name: "unit", Slot: slot, Nodes: 2, Boot: bootID()}
	if err := c.save(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRangesOfSlotsDoNotOverlap(t *testing.T) {
	var seen []netip.Prefix
	for slot := range slots {
		c := &cluster{Slot: slot, Nodes: 50}
		for _, block := range []string{c.nodeRange(), c.PodRange(), c.ServiceRange()} {
			prefix := netip.MustParsePrefix(block)
			for _, other := range seen {
				if prefix.Overlaps(other) {
					t.Errorf("%v of slot %d overlaps %v", prefix, slot, other)
				}
			}
			seen = append(seen, prefix)
		}
		for _, n := range c.allNodes() {
			if !netip.MustParsePrefix(c.nodeRange()).Contains(netip.MustParseAddr(n.IP())) {
				t.Errorf("%s of slot %d is at %s, outside of %s", n.Name(), slot, n.IP(), c.nodeRange())
			}
		}
	}
}

func TestCertificatesAreTrustedByTheirOwnAuthorityOnly(t *testing.T) {
	c := newCluster(t, 3)
	if err := c.makePKI(); err != nil {
		t.Fatal(err)
	}
	read := func(file string) *x509.Certificate {
		data, err := os.ReadFile(c.Dir("pki", file))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(data)
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return certificate
	}
	for _, test := range []struct {
		certificate, authority, host string
		trusted                      bool
	}{
		{"apiserver.crt", "ca.crt", "172.30.3.1", true},
		{"apiserver.crt", "ca.crt", "10.99.0.1", true},
		{"apiserver.crt", "ca.crt", "172.30.0.1", false}, // another cluster's address
		{"node-2-server.crt", "ca.crt", "172.30.3.12", true},
		{"registry.crt", "ca.crt", "172.30.3.1", true},
		{"etcd.crt", "etcd-ca.crt", "127.30.3.1", true},
		{"etcd.crt", "ca.crt", "", false},
		{"admin.crt", "etcd-ca.crt", "", false},
		{"admin.crt", "front-proxy-ca.crt", "", false},
	} {
		roots := x509.NewCertPool()
		roots.AddCert(read(test.authority))
		_, err := read(test.certificate).Verify(x509.VerifyOptions{
			Roots: roots, DNSName: test.host, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		})
		if (err == nil) != test.trusted {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

func TestKillSparesAProcessThatOnlyHasTheSamePid(t *testing.T) {
	c := newCluster(t, 0)
	if err := c.start("mine", "sleep", "1000"); err != nil {
		t.Fatal(err)
	}
	stranger := exec.Command("sleep", "1000")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stranger.Process.Kill()
		_ = stranger.Wait()
	}()
	id, _ := identify(stranger.Process.Pid)
	record := []byte(strconv.Itoa(id.pid) + " 1\n") // started at another time
	if err := os.WriteFile(c.pidFile("stranger"), record, 0o644); err != nil {
		t.Fatal(err)
	}

	if !c.alive("mine") || c.alive("stranger") {
		t.Errorf("alive: mine %v, stranger %v", c.alive("mine"), c.alive("stranger"))
	}
	for _, name := range []string{"mine", "stranger"} {
		if err := c.kill(name); err != nil {
			t.Error(err)
		}
	}
	if c.alive("mine") {
		t.Error("the recorded process still runs")
	}
	if now, running := identify(id.pid); !running || now != id {
		t.Error("a process that was not recorded was killed")
	}
}
