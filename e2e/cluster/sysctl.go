// The kernel settings that a kubelet changes for the whole machine: remembered before the first cluster, restored after the last.
package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// kubeletSysctls is what kubelet sets when protectKernelDefaults is off (pkg/kubelet/cm, setupKernelTunables).
var kubeletSysctls = []string{
	"vm/overcommit_memory",
	"vm/panic_on_oom",
	"kernel/panic",
	"kernel/panic_on_oops",
	"kernel/keys/root_maxkeys",
	"kernel/keys/root_maxbytes",
}

// What all processes of root share: a node takes about ten, a desktop some dozens, and the kernel's default is 128.
const (
	inotifyInstances     = "fs/inotify/max_user_instances"
	wantInotifyInstances = 1024
)

type savedSysctls struct {
	Boot   string
	Values map[string]string
}

func sysctlFile() string { return filepath.Join(cacheDir(), "sysctls.json") }

// saveSysctls remembers the settings, unless an earlier cluster of this boot has done so and has not been taken down.
func saveSysctls() error {
	if old, err := readSysctls(); err != nil || old.Boot == bootID() {
		return err
	}
	now := savedSysctls{Boot: bootID(), Values: map[string]string{}}
	for _, name := range append(slices.Clone(kubeletSysctls), inotifyInstances) {
		value, err := os.ReadFile(filepath.Join("/proc/sys", name))
		if err != nil {
			return err
		}
		now.Values[name] = string(value)
	}
	data, err := json.Marshal(now)
	if err != nil {
		return err
	}
	return os.WriteFile(sysctlFile(), data, 0o600)
}

// raiseInotify lets as many watch files as the nodes need.
func raiseInotify() error {
	file := filepath.Join("/proc/sys", inotifyInstances)
	value, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if now, err := strconv.Atoi(strings.TrimSpace(string(value))); err != nil || now >= wantInotifyInstances {
		return err
	}
	return os.WriteFile(file, []byte(strconv.Itoa(wantInotifyInstances)), 0)
}

func restoreSysctls() error {
	saved, err := readSysctls()
	if err != nil {
		return err
	}
	if saved.Boot == bootID() {
		for name, value := range saved.Values {
			err = errors.Join(err, os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0))
		}
	}
	return errors.Join(err, os.RemoveAll(sysctlFile()))
}

func readSysctls() (saved savedSysctls, err error) {
	data, err := os.ReadFile(sysctlFile())
	if errors.Is(err, fs.ErrNotExist) {
		return saved, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &saved)
	}
	return saved, err
}
