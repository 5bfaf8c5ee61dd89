// Gates of the registry: further addresses of the same content, each with another way of asking who is there. What is
// pushed to the open registry can be pulled through them with the credentials, or not at all; one of them lies.
package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path"
	"strings"
)

// gatePorts are the ports of the gates on the host's address.
var gatePorts = map[string]int{"basic": 5001, "bearer": 5002, "tls": 5003, "corrupt": 5004, "private": 5005}

// Who may pull through the gates. The network of a cluster ends on this machine: this is for tests, and no secret.
const gateUser, gatePassword = "tester", "open-sesame"

// registryVerb prints an address of the registry, or what is needed to come in there.
func registryVerb(name string, args []string) error {
	facts := map[string]func(*cluster) string{
		"":            (*cluster).Registry,
		"credentials": func(*cluster) string { return gateUser + ":" + gatePassword },
		"authority":   func(c *cluster) string { return c.Dir("pki", "ca.crt") },
	}
	for kind := range gatePorts {
		facts[kind] = func(c *cluster) string { return c.gate(kind) }
	}
	fact := facts[strings.Join(args, " ")]
	if fact == nil {
		return errUsage
	}
	return show(fact)(name, nil)
}

// gates serves all of them until one fails.
func gates(args []string) error {
	if len(args) != 1 {
		return errUsage
	}
	c, err := clusterFromFile(args[0])
	if err != nil {
		return err
	}
	registry := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: c.Registry()})
	failed := make(chan error)
	go func() { failed <- http.ListenAndServe(c.gate("basic"), basicGate(registry)) }()
	go func() {
		failed <- http.ListenAndServe(c.gate("bearer"), bearerGate("http://"+c.gate("bearer"), registry))
	}()
	certificate, key := c.Dir("pki", "registry.crt"), c.Dir("pki", "registry.key")
	go func() { failed <- http.ListenAndServeTLS(c.gate("tls"), certificate, key, registry) }()
	go func() {
		// As registries are: TLS, and a token for the password.
		private := bearerGate("https://"+c.gate("private"), registry)
		failed <- http.ListenAndServeTLS(c.gate("private"), certificate, key, private)
	}()
	go func() { failed <- http.ListenAndServe(c.gate("corrupt"), corruptGate(registry)) }()
	return <-failed
}

// basicGate wants the password with every request.
func basicGate(registry http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !loggedIn(r) {
			refuse(w, `Basic realm="podless"`)
			return
		}
		r.Header.Del("Authorization")
		registry.ServeHTTP(w, r)
	})
}

// bearerGate wants a token that it gives for the password, good for one repository until the gate ends.
func bearerGate(base string, registry http.Handler) http.Handler {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	token := func(repository string) string {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(repository))
		return hex.EncodeToString(mac.Sum(nil))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /token", func(w http.ResponseWriter, r *http.Request) {
		scope := strings.Split(r.FormValue("scope"), ":") // repository:NAME:ACTIONS
		if !loggedIn(r) || len(scope) != 3 || scope[0] != "repository" {
			refuse(w, "")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"token": token(scope[1]), "expires_in": 300})
	})
	mux.HandleFunc("/v2/", func(w http.ResponseWriter, r *http.Request) {
		repository := repositoryOf(r.URL.Path)
		shown, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !bearer || !hmac.Equal([]byte(shown), []byte(token(repository))) {
			refuse(w, fmt.Sprintf(`Bearer realm="%s/token",service="podless",scope="repository:%s:pull"`, base, repository))
			return
		}
		r.Header.Del("Authorization")
		registry.ServeHTTP(w, r)
	})
	return mux
}

// corruptGate gives everyone other bytes than were asked for by their digest, as many of them. A tag leads to the manifest
// that it names: so far all is well.
func corruptGate(registry http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, name := path.Split(r.URL.Path); strings.HasPrefix(name, "sha256:") {
			w = &corrupting{ResponseWriter: w}
		}
		registry.ServeHTTP(w, r)
	})
}

// corrupting changes the first byte of a body.
type corrupting struct {
	http.ResponseWriter
	done bool
}

func (c *corrupting) Write(body []byte) (int, error) {
	if !c.done && len(body) > 0 {
		c.done = true
		body = bytes.Clone(body) // a writer leaves what it is given as it is
		body[0] ^= 1
	}
	return c.ResponseWriter.Write(body)
}

// repositoryOf is NAME of /v2/NAME/manifests/… and the like; "" where there is none.
func repositoryOf(path string) string {
	path = strings.TrimPrefix(path, "/v2/")
	for _, kind := range []string{"/manifests/", "/blobs/", "/tags/", "/referrers/"} {
		if at := strings.LastIndex(path, kind); at >= 0 {
			return path[:at]
		}
	}
	return ""
}

func loggedIn(r *http.Request) bool {
	user, password, ok := r.BasicAuth()
	return ok && user == gateUser && password == gatePassword
}

// refuse answers as the OCI distribution specification has it; without a challenge it says that asking again is no use.
func refuse(w http.ResponseWriter, challenge string) {
	if challenge != "" {
		w.Header().Set("WWW-Authenticate", challenge)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = w.Write([]byte(`{"errors": [{"code": "UNAUTHORIZED", "message": "log in first"}]}`))
}
