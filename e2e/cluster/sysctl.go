// The kernel settings that a kubelet changes for the whole machine: remembered before the first cluster, restored after the last.
package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
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
	for _, name := range kubeletSysctls {
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
