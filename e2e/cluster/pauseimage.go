// The image of the pause container, which holds the namespaces of a pod: made here, as nothing can be pulled.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
)

const pauseImage = "podless.test/pause:1"

// makePauseImage writes an OCI image of one layer with one file.
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
