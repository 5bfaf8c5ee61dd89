// The cluster's certificates, split as kubeadm does: one authority for Kubernetes, one for etcd, one for aggregated API servers.
package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"time"
)

// pki writes certificates and keys into a folder. The first error stops it, and is kept in err.
type pki struct {
	dir func(elem ...string) string
	err error
}

type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

func (c *cluster) makePKI() error {
	p := &pki{dir: c.Dir}
	p.err = os.MkdirAll(c.Dir("pki"), 0o700)

	kubernetes := p.authority("ca", "kubernetes")
	p.issue(kubernetes, "apiserver", pkix.Name{CommonName: "kube-apiserver"},
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost",
		c.HostIP(), c.APIServiceIP())
	p.issue(kubernetes, "apiserver-kubelet", member("kube-apiserver-kubelet-client", "system:masters"))
	p.issue(kubernetes, "admin", member("admin", "system:masters"))
	for _, component := range []string{"kube-controller-manager", "kube-scheduler", "kube-proxy", "coredns"} {
		p.issue(kubernetes, component, pkix.Name{CommonName: "system:" + component})
	}
	for _, n := range c.allNodes() {
		p.issue(kubernetes, n.Name(), member("system:node:"+n.Name(), "system:nodes"))
		p.issue(kubernetes, n.Name()+"-server", pkix.Name{CommonName: n.Name()}, n.Name(), n.IP())
	}
	p.issue(kubernetes, "registry", pkix.Name{CommonName: "registry"}, c.HostIP())
	p.keyPair("sa") // signs service account tokens

	etcd := p.authority("etcd-ca", "etcd")
	p.issue(etcd, "etcd", pkix.Name{CommonName: "etcd"}, c.LoopbackIP())
	p.issue(etcd, "apiserver-etcd", pkix.Name{CommonName: "kube-apiserver"})

	frontProxy := p.authority("front-proxy-ca", "front-proxy")
	p.issue(frontProxy, "front-proxy", pkix.Name{CommonName: "front-proxy-client"})
	return p.err
}

// keyPair makes FILE.key and FILE.pub, without a certificate.
func (p *pki) keyPair(file string) {
	key := p.key()
	if p.err != nil {
		return
	}
	var der []byte
	der, p.err = x509.MarshalPKIXPublicKey(key.Public())
	p.writeBlock(file+".pub", "PUBLIC KEY", der)
	p.write(file+".key", key)
}

func member(name, group string) pkix.Name {
	return pkix.Name{CommonName: name, Organization: []string{group}}
}

// authority makes FILE.crt and FILE.key of a certificate authority.
func (p *pki) authority(file, name string) authority {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	return p.sign(file, template, authority{})
}

// issue makes FILE.crt and FILE.key: of a client, or when it has names (DNS names or IP addresses) also of a server.
func (p *pki) issue(by authority, file string, subject pkix.Name, names ...string) {
	template := &x509.Certificate{
		Subject:     subject,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	if len(names) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	p.sign(file, template, by)
}

// sign completes a template and writes it with a key of its own; without an authority, it signs itself.
func (p *pki) sign(file string, template *x509.Certificate, by authority) authority {
	key := p.key()
	if p.err != nil {
		return by
	}
	if by.key == nil {
		by = authority{template, key}
	}
	template.SerialNumber, p.err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if p.err != nil {
		return by
	}
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = template.NotBefore.AddDate(1, 0, 0)

	var der []byte
	der, p.err = x509.CreateCertificate(rand.Reader, template, by.certificate, key.Public(), by.key)
	p.writeBlock(file+".crt", "CERTIFICATE", der)
	p.write(file+".key", key)
	if p.err != nil {
		return by
	}
	template, p.err = x509.ParseCertificate(der)
	return authority{template, key}
}

func (p *pki) key() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if p.err == nil {
		p.err = err
	}
	return key
}

func (p *pki) write(file string, key *ecdsa.PrivateKey) {
	if p.err != nil {
		return
	}
	var der []byte
	der, p.err = x509.MarshalPKCS8PrivateKey(key)
	p.writeBlock(file, "PRIVATE KEY", der)
}

func (p *pki) writeBlock(file, kind string, der []byte) {
	if p.err == nil {
		p.err = os.WriteFile(p.dir("pki", file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
	}
}
