// Kubeconfig files: one for each user of the API server, with its certificate and key inside.
package main

import (
	"encoding/base64"
	"os"
)

// makeKubeconfigs follows makePKI: every user here has a certificate there.
func (c *cluster) makeKubeconfigs() error {
	users := []string{"admin", "kube-controller-manager", "kube-scheduler", "kube-proxy", "coredns"}
	for _, n := range c.allNodes() {
		users = append(users, n.Name())
	}
	for _, user := range users {
		values := map[string]string{"Context": "podless-" + c.Name, "Server": c.APIServer(), "User": user}
		for value, file := range map[string]string{"Authority": "ca.crt", "Certificate": user + ".crt", "Key": user + ".key"} {
			data, err := os.ReadFile(c.Dir("pki", file))
			if err != nil {
				return err
			}
			values[value] = base64.StdEncoding.EncodeToString(data)
		}
		if err := render("kubeconfig.yaml", c.kubeconfig(user), values); err != nil {
			return err
		}
	}
	return nil
}
