// Command cluster boots a real Kubernetes on one Linux machine, without Docker: see README.md.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

const usage = `cluster boots a real Kubernetes on this machine: nodes are Linux namespaces, no Docker is needed.

usage: cluster [--name demo] VERB

  up [--nodes 3]                build what is missing, boot, wait until nodes and DNS are ready
     [--default-backoff]        crashing containers wait as long as Kubernetes has it, not 2 s at most
  down                          end the cluster and undo everything that up did
  kubectl ARGS...               run kubectl against the cluster
  helm ARGS...                  run Helm against the cluster
  kubeconfig                    print the path of the administrator's kubeconfig
  registry                      print host:port of the OCI registry, the same from host, nodes and pods
  registry basic|bearer|tls     print host:port at which the same registry wants a password, wants a token, speaks TLS
  registry corrupt              print host:port at which it sends other bytes than their digest says
  registry credentials          print user:password for these
  registry authority            print the path of the certificate authority of the one with TLS
  bin                           build what is missing, print the folder of kubectl and helm; needs no cluster
  cosign                        build cosign if it is missing, print its path; needs no cluster
  load IMAGE.tar...             give every node these OCI images, also nodes that come back later
  node off|on N                 cut the power of node N, or boot it again
  node stop|start N SERVICE     kill containerd, kubelet or kube-proxy and keep it dead, or start it again
  apiserver stop|start          kill the API server and keep it dead, or start it again with the same data
  etcd stop|start               the same for etcd
  etcd save|restore FILE        copy all that etcd holds, or boot the control plane with such a copy
  audit                         print the path of the API server's audit log: a line of JSON for each write
  node exec N -- CMD...         run a command inside node N
  client exec -- CMD...         run a command on a client machine beside the nodes, which uses the cluster's DNS
  logs DIR                      copy the logs of all components and pods into DIR
`

// verbs by name; each gets the cluster's name and the arguments after the verb.
var verbs = map[string]func(name string, args []string) error{
	"up":         up,
	"down":       func(name string, _ []string) error { return down(name) },
	"kubectl":    func(name string, args []string) error { return client(name, "kubectl", args) },
	"helm":       func(name string, args []string) error { return client(name, "helm", args) },
	"kubeconfig": show(func(c *cluster) string { return c.kubeconfig("admin") }),
	"registry":   registryVerb,
	"bin":        bin,
	"cosign":     cosignPath,
	"load":       load,
	"apiserver":  controlPlaneVerb("kube-apiserver"),
	"etcd":       etcdVerb,
	"audit":      show((*cluster).auditLog),
	"node":       nodeVerb,
	"client":     clientVerb,
	"logs":       saveLogs,
}

// inside are the verbs by which this program runs itself, most in the namespaces of a node or of the client.
var inside = map[string]func(args []string) error{
	"inside-node-join":      nodeJoin,
	"inside-node-init":      nodeInit,
	"inside-client-exec":    clientInside,
	"inside-registry-gates": gates,
}

var errUsage = errors.New("usage")

func main() {
	err := run(os.Args[1:])
	switch {
	case err == nil:
	case errors.Is(err, errUsage):
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) > 0 && inside[args[0]] != nil {
		return inside[args[0]](args[1:])
	}
	flags := flag.NewFlagSet("cluster", flag.ContinueOnError)
	flags.Usage = func() {}
	name := flags.String("name", "demo", "")
	if flags.Parse(args) != nil || flags.NArg() == 0 || verbs[flags.Arg(0)] == nil {
		return errUsage
	}
	if !regexp.MustCompile(`^[a-z][a-z0-9-]{0,19}$`).MatchString(*name) {
		return fmt.Errorf("the name %q must be 1 to 20 lower-case letters, digits and dashes", *name)
	}
	return verbs[flags.Arg(0)](*name, flags.Args()[1:])
}

// show makes a verb that prints one fact of a cluster that is up.
func show(fact func(*cluster) string) func(string, []string) error {
	return func(name string, args []string) error {
		c, err := running(name)
		if err != nil {
			return err
		}
		fmt.Println(fact(c))
		return nil
	}
}

func bin(string, []string) error {
	folders, err := build(modules...)
	if err == nil {
		fmt.Println(folders["kube"])
	}
	return err
}

func cosignPath(string, []string) error {
	folders, err := build(cosign)
	if err == nil {
		fmt.Println(filepath.Join(folders["cosign"], "cosign"))
	}
	return err
}

// client runs one of the multiplexer's command-line clients in place of this process.
func client(name, program string, args []string) error {
	c, err := running(name)
	if err != nil {
		return err
	}
	os.Setenv("KUBECONFIG", c.kubeconfig("admin"))
	// kubectl remembers by address which kinds a server has: an earlier cluster in this slot had others.
	os.Setenv("KUBECACHEDIR", c.Dir("kubectl-cache"))
	return become(append([]string{c.bin("kube", program)}, args...))
}

func nodeVerb(name string, args []string) error {
	if len(args) < 2 {
		return errUsage
	}
	c, err := running(name)
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(args[1])
	if err != nil || number < 1 || number > c.Nodes {
		return fmt.Errorf("no node %q: the nodes of cluster %s are 1 to %d", args[1], name, c.Nodes)
	}
	n, rest := c.node(number), args[2:]
	if args[0] == "exec" && len(rest) > 1 && rest[0] == "--" {
		return n.exec(rest[1:])
	}
	unlock, err := lock("cluster " + name)
	if err != nil {
		return err
	}
	defer unlock()
	switch verb := args[0]; {
	case verb == "off" && len(rest) == 0:
		return n.off()
	case verb == "on" && len(rest) == 0:
		return n.on()
	case verb == "stop" && len(rest) == 1:
		return n.setService(rest[0], false)
	case verb == "start" && len(rest) == 1:
		return n.setService(rest[0], true)
	}
	return errUsage
}

func clientVerb(name string, args []string) error {
	if len(args) < 3 || args[0] != "exec" || args[1] != "--" {
		return errUsage
	}
	c, err := running(name)
	if err != nil {
		return err
	}
	return c.clientExec(args[2:])
}
