// The data of etcd, saved and taken back as administrators of Kubernetes do it: with etcdctl and etcdutl.
package main

import (
	"errors"
	"os"
	"path/filepath"
)

const etcdctlFlags = `
	--endpoints=https://$LOOPBACK:2379
	--cacert=$PKI/etcd-ca.crt
	--cert=$PKI/apiserver-etcd.crt
	--key=$PKI/apiserver-etcd.key
	snapshot save`

// Revisions go on far beyond any that was given out since, and what is older counts as forgotten: a watch that goes on from
// there is told to begin anew, where otherwise it would see nothing until revisions had caught up.
const etcdutlFlags = `
	snapshot restore
	--data-dir=$STATE/etcd-restored
	--initial-cluster=default=http://$LOOPBACK:2380
	--initial-advertise-peer-urls=http://$LOOPBACK:2380
	--bump-revision=1000000000
	--mark-compacted`

// etcdVerb stops and starts etcd, as controlPlaneVerb has it, and saves or takes back what it holds.
func etcdVerb(name string, args []string) error {
	if len(args) != 2 || (args[0] != "save" && args[0] != "restore") {
		return controlPlaneVerb("etcd")(name, args)
	}
	c, unlock, err := held(name)
	if err != nil {
		return err
	}
	defer unlock()
	file, err := filepath.Abs(args[1])
	if err != nil {
		return err
	}
	if args[0] == "save" {
		return c.etcdTool("etcdctl", etcdctlFlags, file)
	}
	return c.restoreEtcd(file)
}

// restoreEtcd ends the control plane and boots it with what was saved. Controllers must not remember what is not there
// any more, so all of it is started anew, as Kubernetes' own manual has it.
func (c *cluster) restoreEtcd(file string) error {
	restored := c.Dir("etcd-restored")
	if err := os.RemoveAll(restored); err != nil {
		return err
	}
	if err := c.etcdTool("etcdutl", etcdutlFlags, file); err != nil {
		return err
	}
	for _, process := range []string{"kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"} {
		if err := c.kill(process); err != nil {
			return err
		}
	}
	if err := errors.Join(os.RemoveAll(c.Dir("etcd")), os.Rename(restored, c.Dir("etcd"))); err != nil {
		return err
	}
	return c.startControlPlane()
}

func (c *cluster) etcdTool(program, flags, file string) error {
	return command(append(append([]string{c.bin("etcd", program)}, c.flags(flags)...), file)...)
}
