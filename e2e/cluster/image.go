// Images of the nodes: tars which are kept, and which containerd gets on every boot of a node.
package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// image is the path of a kept image tar.
func (c *cluster) image(name string) string { return c.Dir("images", name+".tar") }

// load keeps image tars for nodes that boot later, and gives them to those that are on.
func load(name string, files []string) error {
	if len(files) == 0 {
		return errUsage
	}
	c, err := running(name)
	if err != nil {
		return err
	}
	for _, file := range files {
		kept, err := c.keepImage(file)
		if err != nil {
			return err
		}
		var imports []*exec.Cmd
		for _, n := range c.allNodes() {
			if !n.alive() {
				continue
			}
			enter, err := n.enter(importImage(n, kept))
			if err != nil {
				return err
			}
			run := exec.Command(enter[0], enter[1:]...)
			run.Stdout, run.Stderr = &bytes.Buffer{}, &bytes.Buffer{}
			if err := run.Start(); err != nil {
				return err
			}
			imports = append(imports, run)
		}
		for _, run := range imports {
			if waiting := run.Wait(); waiting != nil {
				err = errors.Join(err, fmt.Errorf("import %s: %w: %s", file, waiting, run.Stderr))
			}
		}
		if err != nil {
			return errors.Join(err, os.Remove(kept))
		}
	}
	return nil
}

// keepImage copies a tar to where the nodes look for images, named by its content.
func (c *cluster) keepImage(file string) (string, error) {
	source, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer source.Close()
	half, err := os.CreateTemp(c.Dir("images"), "half-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(half.Name())
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(half, sum), source); err != nil {
		return "", err
	}
	if err := half.Close(); err != nil {
		return "", err
	}
	kept := c.image(fmt.Sprintf("%x", sum.Sum(nil)))
	return kept, os.Rename(half.Name(), kept)
}
