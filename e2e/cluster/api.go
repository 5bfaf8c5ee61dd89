// The few questions that this program asks the API server, as the cluster's administrator.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

type api struct {
	server string
	http   http.Client
}

func (c *cluster) api() (*api, error) {
	pair, err := tls.LoadX509KeyPair(c.Dir("pki", "admin.crt"), c.Dir("pki", "admin.key"))
	if err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(c.Dir("pki", "ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	transport := &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots}}
	return &api{c.APIServer(), http.Client{Transport: transport, Timeout: 5 * time.Second}}, nil
}

func (a *api) get(path string) ([]byte, error) {
	response, err := a.http.Get(a.server + path)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", path, response.Status)
	}
	return body, nil
}

// ready is nil when the API server says so of itself.
func (a *api) ready() error {
	_, err := a.get("/readyz")
	return err
}

// notReady are those of the nodes that are not Ready, or not registered yet.
func (a *api) notReady(nodes []node) ([]node, error) {
	body, err := a.get("/api/v1/nodes")
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct {
				Conditions []struct{ Type, Status string }
			}
		}
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, err
	}
	isReady := map[string]bool{}
	for _, item := range list.Items {
		for _, condition := range item.Status.Conditions {
			if condition.Type == "Ready" && condition.Status == "True" {
				isReady[item.Metadata.Name] = true
			}
		}
	}
	var missing []node
	for _, n := range nodes {
		if !isReady[n.Name()] {
			missing = append(missing, n)
		}
	}
	return missing, nil
}
