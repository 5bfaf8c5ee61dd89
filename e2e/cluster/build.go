// Building the binaries: each module here is built once for its content, and kept in the cache.
package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// module is a folder here with sources, and how it is built.
type module struct {
	name string
	// build makes the binaries in a folder; the commands run in the module's own folder, with variables beside ours.
	build func(into string) [][]string
	env   string
}

const kubernetesVersion = "v1.37.1" // what the components say of themselves; the sources are pinned in kube/go.mod

var modules = []module{
	{"kube", func(into string) [][]string {
		const set = " -X k8s.io/component-base/version."
		version := set + "gitVersion=" + kubernetesVersion + set + "gitMajor=1" + set + "gitMinor=37" + set + "gitTreeState=clean"
		return [][]string{
			{"go", "build", "-trimpath", "-ldflags", "-s -w" + version, "-o", filepath.Join(into, "kube"), "."},
			{"ln", "-s", "kube", filepath.Join(into, "kubectl")},
			{"ln", "-s", "kube", filepath.Join(into, "helm")},
		}
	}, "CGO_ENABLED=0"},
	{"etcd", goTools("", ""), "CGO_ENABLED=0"},
	{"containerd", goTools("no_btrfs,no_devmapper,no_zfs", "-X github.com/containerd/containerd/v2/version.Version=v2.4.2"), "CGO_ENABLED=0"},
	{"runc", goTools("seccomp", "-X main.version=1.5.2"), "CGO_ENABLED=1"},
	{"cni", goTools("", ""), "CGO_ENABLED=0"},
	{"pause", func(into string) [][]string {
		return [][]string{{"gcc", "-Os", "-static", "-s", "-o", filepath.Join(into, "pause"), "pause.c"}}
	}, ""},
}

// cosign signs images: what the tests of signatures need, and no cluster.
var cosign = module{"cosign", goTools("", ""), "CGO_ENABLED=0"}

// goTools builds all that go.mod names as a tool.
func goTools(tags, linkerFlags string) func(string) [][]string {
	return func(into string) [][]string {
		return [][]string{{"go", "build", "-trimpath", "-tags", tags, "-ldflags", "-s -w " + linkerFlags, "-o", into + "/", "tool"}}
	}
}

// build builds what is missing of these in the cache, and returns the folder of each module's binaries.
func build(modules ...module) (map[string]string, error) {
	unlock, err := lock("build") // a second one waits, and then finds everything built
	if err != nil {
		return nil, err
	}
	defer unlock()
	sources, err := sourceDir()
	if err != nil {
		return nil, err
	}
	// A compiler cache of 4 GB is not worth keeping; but an interrupted build goes on from it.
	compilerCache := filepath.Join(cacheDir(), "build-cache")
	bin := map[string]string{}
	for _, m := range modules {
		hash, err := m.hash(filepath.Join(sources, m.name))
		if err != nil {
			return nil, err
		}
		folder := filepath.Join(cacheDir(), "bin-"+m.name+"-"+hash)
		if !exists(folder) {
			if err := installPackages(); err != nil {
				return nil, err
			}
			if err := m.buildInto(folder, filepath.Join(sources, m.name), compilerCache); err != nil {
				return nil, err
			}
		}
		now := time.Now()
		if err := os.Chtimes(folder, now, now); err != nil {
			return nil, err
		}
		if err := m.removeOld(); err != nil {
			return nil, err
		}
		bin[m.name] = folder
	}
	return bin, os.RemoveAll(compilerCache)
}

// hash is over everything that the binaries depend on: sources, pinned versions, flags and the compiler.
func (m module) hash(sources string) (string, error) {
	files, err := os.ReadDir(sources)
	if err != nil {
		return "", err
	}
	compiler := exec.Command("go", "env", "GOVERSION", "GOOS", "GOARCH")
	compiler.Dir = sources
	version, err := compiler.Output()
	if err != nil {
		return "", fmt.Errorf("run go: %w: install Go from https://go.dev/dl", err)
	}
	sum := sha256.New()
	fmt.Fprintln(sum, string(version), m.env, m.build(""))
	for _, file := range files {
		if !slices.Contains([]string{".go", ".c", ".mod", ".sum"}, filepath.Ext(file.Name())) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(sources, file.Name()))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s %d\n%s", file.Name(), len(data), data)
	}
	return fmt.Sprintf("%x", sum.Sum(nil)[:6]), nil
}

// buildInto makes the folder in one step, when all is in it: an interrupted build leaves none.
func (m module) buildInto(folder, sources, compilerCache string) error {
	half := folder + ".half"
	if err := errors.Join(os.RemoveAll(half), os.MkdirAll(half, 0o755)); err != nil {
		return err
	}
	done := progress("build " + m.name)
	for _, argv := range m.build(half) {
		build := exec.Command("nice", argv...)
		build.Dir = sources
		build.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false", m.env)
		if os.Getenv("GOCACHE") == "" {
			build.Env = append(build.Env, "GOCACHE="+compilerCache)
		}
		if output, err := build.CombinedOutput(); err != nil {
			done(err)
			return fmt.Errorf("build %s in %s: %w\n%s", m.name, sources, err, output)
		}
	}
	done(nil)
	return os.Rename(half, folder)
}

// removeOld keeps the three folders of a module that were used last, and any that a cluster runs from.
func (m module) removeOld() error {
	clusters, err := claims()
	if err != nil {
		return err
	}
	folders, err := filepath.Glob(filepath.Join(cacheDir(), "bin-"+m.name+"-*"))
	if err != nil {
		return err
	}
	used := func(folder string) time.Time {
		info, err := os.Stat(folder)
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	slices.SortFunc(folders, func(a, b string) int { return used(b).Compare(used(a)) })
	for i, folder := range folders {
		running := slices.ContainsFunc(clusters, func(c *cluster) bool { return c.Bin[m.name] == folder })
		if i >= 3 && !running {
			if err := os.RemoveAll(folder); err != nil {
				return err
			}
		}
	}
	return nil
}

// sourceDir finds the folder of this file: at the working directory or above it, or where the compiler saw it.
func sourceDir() (string, error) {
	folder, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; folder != "/"; folder = filepath.Dir(folder) {
		for _, candidate := range []string{folder, filepath.Join(folder, "e2e", "cluster")} {
			if data, err := os.ReadFile(filepath.Join(candidate, "go.mod")); err == nil &&
				strings.HasPrefix(string(data), "module podless.dev/e2e/cluster\n") {
				return candidate, nil
			}
		}
	}
	_, file, _, _ := runtime.Caller(0)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return "", errors.New("the sources of the cluster are not found: run this inside the podless repository")
	}
	return filepath.Dir(file), nil
}
