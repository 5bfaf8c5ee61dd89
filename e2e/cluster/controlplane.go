// The control plane: etcd, API server, controllers and scheduler, with DNS and registry, as processes of the host.
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// flags are the arguments of a component, as one word for each line.
func (c *cluster) flags(text string) []string {
	replace := strings.NewReplacer(
		"$PKI", c.Dir("pki"), "$STATE", c.Dir(), "$HOST", c.HostIP(), "$LOOPBACK", c.LoopbackIP(),
		"$SERVICES", c.ServiceRange(), "$PODS", c.PodRange(),
	)
	return strings.Fields(replace.Replace(text))
}

// startKube starts a component of the multiplexer.
func (c *cluster) startKube(component, flags string) error {
	return c.start(component, append([]string{c.bin("kube", "kube"), component}, c.flags(flags)...)...)
}

// The data of a test cluster need not survive a crash of the machine: no fsync.
const etcdFlags = `
	--data-dir=$STATE/etcd
	--unsafe-no-fsync
	--log-level=warn
	--listen-client-urls=https://$LOOPBACK:2379
	--advertise-client-urls=https://$LOOPBACK:2379
	--cert-file=$PKI/etcd.crt
	--key-file=$PKI/etcd.key
	--client-cert-auth
	--trusted-ca-file=$PKI/etcd-ca.crt
	--listen-peer-urls=http://$LOOPBACK:2380
	--initial-advertise-peer-urls=http://$LOOPBACK:2380
	--initial-cluster=default=http://$LOOPBACK:2380`

// Pods leave a lost node after 20 s rather than 5 min: nobody wants to wait so long for a test.
const apiserverFlags = `
	--bind-address=$HOST
	--advertise-address=$HOST
	--etcd-servers=https://$LOOPBACK:2379
	--etcd-cafile=$PKI/etcd-ca.crt
	--etcd-certfile=$PKI/apiserver-etcd.crt
	--etcd-keyfile=$PKI/apiserver-etcd.key
	--service-cluster-ip-range=$SERVICES
	--tls-cert-file=$PKI/apiserver.crt
	--tls-private-key-file=$PKI/apiserver.key
	--client-ca-file=$PKI/ca.crt
	--authorization-mode=Node,RBAC
	--enable-admission-plugins=NodeRestriction
	--allow-privileged
	--kubelet-certificate-authority=$PKI/ca.crt
	--kubelet-client-certificate=$PKI/apiserver-kubelet.crt
	--kubelet-client-key=$PKI/apiserver-kubelet.key
	--kubelet-preferred-address-types=InternalIP
	--service-account-issuer=https://kubernetes.default.svc.cluster.local
	--service-account-signing-key-file=$PKI/sa.key
	--service-account-key-file=$PKI/sa.pub
	--requestheader-client-ca-file=$PKI/front-proxy-ca.crt
	--requestheader-allowed-names=front-proxy-client
	--requestheader-username-headers=X-Remote-User
	--requestheader-group-headers=X-Remote-Group
	--requestheader-extra-headers-prefix=X-Remote-Extra-
	--proxy-client-cert-file=$PKI/front-proxy.crt
	--proxy-client-key-file=$PKI/front-proxy.key
	--enable-aggregator-routing
	--audit-policy-file=$STATE/audit/policy.yaml
	--audit-log-path=$STATE/audit/audit.jsonl
	--default-not-ready-toleration-seconds=20
	--default-unreachable-toleration-seconds=20
	--profiling=false`

// A node counts as lost after 16 s, four missed updates of its status. Autoscalers look every 2 s rather than 15.
const controllerManagerFlags = `
	--bind-address=$LOOPBACK
	--kubeconfig=$PKI/kube-controller-manager.kubeconfig
	--authentication-kubeconfig=$PKI/kube-controller-manager.kubeconfig
	--authorization-kubeconfig=$PKI/kube-controller-manager.kubeconfig
	--leader-elect=false
	--use-service-account-credentials
	--service-account-private-key-file=$PKI/sa.key
	--root-ca-file=$PKI/ca.crt
	--cluster-signing-cert-file=$PKI/ca.crt
	--cluster-signing-key-file=$PKI/ca.key
	--node-monitor-period=2s
	--node-monitor-grace-period=16s
	--horizontal-pod-autoscaler-sync-period=2s
	--profiling=false`

const schedulerFlags = `
	--bind-address=$LOOPBACK
	--kubeconfig=$PKI/kube-scheduler.kubeconfig
	--authentication-kubeconfig=$PKI/kube-scheduler.kubeconfig
	--authorization-kubeconfig=$PKI/kube-scheduler.kubeconfig
	--leader-elect=false
	--profiling=false`

// stoppable are the processes of the control plane that a verb kills and starts again.
var stoppable = map[string]func(*cluster) error{
	"etcd":           (*cluster).startEtcd,
	"kube-apiserver": (*cluster).startAPIServer,
}

// controlPlaneVerb makes the verb that kills a process of the control plane, or starts it again with the data it had.
func controlPlaneVerb(process string) func(string, []string) error {
	return func(name string, args []string) error {
		if len(args) != 1 || (args[0] != "stop" && args[0] != "start") {
			return errUsage
		}
		c, unlock, err := held(name)
		if err != nil {
			return err
		}
		defer unlock()
		if args[0] == "stop" {
			return c.kill(process)
		}
		if c.alive(process) {
			return nil
		}
		return stoppable[process](c)
	}
}

func (c *cluster) startEtcd() error { return c.startKube("etcd", etcdFlags) }

// startAPIServer returns when the API server is ready. Its audit log tells every write, see config/audit.yaml.
func (c *cluster) startAPIServer() error {
	if err := render("audit.yaml", c.Dir("audit", "policy.yaml"), nil); err != nil {
		return err
	}
	if err := c.startKube("kube-apiserver", apiserverFlags); err != nil {
		return err
	}
	api, err := c.api()
	if err != nil {
		return err
	}
	return c.waitForProcess("kube-apiserver", "the API server", 2*time.Minute, api.ready)
}

func (c *cluster) auditLog() string { return c.Dir("audit", "audit.jsonl") }

func (c *cluster) startControlPlane() error {
	if err := c.startEtcd(); err != nil {
		return err
	}
	// The controllers give up for good when the bootstrap roles of RBAC are not there yet.
	if err := c.startAPIServer(); err != nil {
		return err
	}
	if err := c.startKube("kube-controller-manager", controllerManagerFlags); err != nil {
		return err
	}
	return c.startKube("kube-scheduler", schedulerFlags)
}

func (c *cluster) startRegistry() error {
	if err := os.MkdirAll(c.Dir("registry"), 0o755); err != nil {
		return err
	}
	if err := c.startKube("registry", "--dir $STATE/registry --address $HOST:5000"); err != nil {
		return err
	}
	if err := c.start("registry-gates", c.Dir("cluster"), "inside-registry-gates", c.Dir("cluster.json")); err != nil {
		return err
	}
	for process, address := range map[string]string{"registry": c.Registry(), "registry-gates": c.gate("bearer")} {
		err := c.waitForProcess(process, process, time.Minute, func() error {
			response, err := http.Get("http://" + address + "/v2/")
			if err == nil {
				response.Body.Close()
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) startDNS() error {
	values := map[string]string{
		"HostIP": c.HostIP(), "LoopbackIP": c.LoopbackIP(), "DNSServiceIP": c.DNSServiceIP(), "PKI": c.Dir("pki"),
	}
	for _, file := range []string{"Corefile", "dns.yaml"} {
		if err := render(file, c.Dir(file), values); err != nil {
			return err
		}
	}
	err := command(c.bin("kube", "kubectl"), "--kubeconfig", c.kubeconfig("admin"), "apply", "--server-side", "-f", c.Dir("dns.yaml"))
	if err != nil {
		return err
	}
	return c.startKube("coredns", "-conf $STATE/Corefile")
}

// waitForDNS asks for a name as a pod would do: at the service address, which a node's kube-proxy translates.
func (c *cluster) waitForDNS() error {
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, c.DNSServiceIP()+":53")
	}}
	return c.waitForProcess("coredns", "the cluster's DNS", time.Minute, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		addresses, err := resolver.LookupHost(ctx, "kubernetes.default.svc.cluster.local.")
		if err == nil && (len(addresses) != 1 || addresses[0] != c.APIServiceIP()) {
			err = fmt.Errorf("kubernetes.default is at %v, not at %s", addresses, c.APIServiceIP())
		}
		return err
	})
}
