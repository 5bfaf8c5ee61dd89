// Images of the nodes: the tars that containerd gets on every boot of a node, among them that of the pause container.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
)

const pauseImage = "podless.test/pause:1"

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

// makePauseImage writes the image of the sandbox container: one layer with one file.
func (c *cluster) makePauseImage() error {
	program, err := os.ReadFile(c.bin("pause", "pause"))
	if err != nil {
		return err
	}
	layer := archive{}
	layer.add("pause", 0o755, program)
	rootfs := layer.bytes()

	type object = map[string]any
	image := archive{}
	blob := func(mediaType string, data []byte) object {
		sum := fmt.Sprintf("%x", sha256.Sum256(data))
		image.add("blobs/sha256/"+sum, 0o644, data)
		return object{"mediaType": mediaType, "digest": "sha256:" + sum, "size": len(data)}
	}
	layerBlob := blob("application/vnd.oci.image.layer.v1.tar", rootfs)
	config, _ := json.Marshal(object{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": object{"Entrypoint": []string{"/pause"}, "User": "65535:65535"},
		"rootfs": object{"type": "layers", "diff_ids": []any{layerBlob["digest"]}},
	})
	manifest, _ := json.Marshal(object{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": blob("application/vnd.oci.image.config.v1+json", config),
		"layers": []any{layerBlob},
	})
	manifestBlob := blob("application/vnd.oci.image.manifest.v1+json", manifest)
	manifestBlob["annotations"] = object{"io.containerd.image.name": pauseImage, "org.opencontainers.image.ref.name": "1"}
	index, _ := json.Marshal(object{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []any{manifestBlob},
	})
	image.add("index.json", 0o644, index)
	image.add("oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`))

	if err := os.MkdirAll(c.Dir("images"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(c.image("pause"), image.bytes(), 0o644)
}

// archive is a tar in memory: writing there cannot fail.
type archive struct {
	buffer bytes.Buffer
	tar    *tar.Writer
}

func (a *archive) add(name string, mode int64, data []byte) {
	if a.tar == nil {
		a.tar = tar.NewWriter(&a.buffer)
	}
	_ = a.tar.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(data)), Typeflag: tar.TypeReg})
	_, _ = a.tar.Write(data)
}

func (a *archive) bytes() []byte {
	_ = a.tar.Close()
	return a.buffer.Bytes()
}
