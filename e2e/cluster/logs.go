// The verb logs: everything that helps to understand a failure, copied into one folder.
package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// questions to the API server, by the file that gets the answer.
var questions = map[string][]string{
	"objects.txt": {"get", "all,endpointslices,nodes,leases", "--all-namespaces", "--output=wide"},
	"events.txt":  {"get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"},
	"nodes.txt":   {"describe", "nodes"},
	"pods.txt":    {"describe", "pods", "--all-namespaces"},
}

// saveLogs works as well when the cluster did not come up, or died.
func saveLogs(name string, args []string) error {
	if len(args) != 1 {
		return errUsage
	}
	c, err := recorded(name)
	if err != nil {
		return err
	}
	if c == nil {
		return errors.New("there is no cluster " + name + ", and so there are no logs")
	}
	err = copyFiles(c.Dir("log"), args[0])
	for _, n := range c.allNodes() {
		err = errors.Join(err, copyFiles(n.Dir("var", "log"), filepath.Join(args[0], n.Name())))
	}
	if !c.healthy() {
		return err
	}
	for file, question := range questions {
		kubectl := exec.Command(c.bin("kube", "kubectl"), append(question, "--kubeconfig", c.kubeconfig("admin"), "--request-timeout=10s")...)
		answer, _ := kubectl.CombinedOutput() // an error says something, too
		err = errors.Join(err, os.WriteFile(filepath.Join(args[0], file), answer, 0o644))
	}
	return err
}

// copyFiles copies the regular files below a folder, if it is there: /var/log/containers has links to /var/log/pods.
func copyFiles(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a log that was rotated meanwhile
		}
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, relative)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		return os.WriteFile(target, data, 0o644)
	})
}
