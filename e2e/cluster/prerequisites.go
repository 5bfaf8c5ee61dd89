// What the host must have: root, and a few Debian packages, which are installed when they are missing.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// packages by what shows that they are there: a program, or a file when the name has a slash.
var packages = []struct{ proof, name string }{
	{"ip", "iproute2"},
	{"nsenter", "util-linux"},
	{"mount", "mount"},
	{"nft", "nftables"},
	{"iptables", "iptables"},
	{"conntrack", "conntrack"},
	{"gcc", "gcc"},
	{"/usr/include/stdio.h", "libc6-dev"},
	{"/usr/include/seccomp.h", "libseccomp-dev"},
	{"pkg-config", "pkg-config"},
}

func prerequisites() error {
	if os.Geteuid() != 0 {
		return errors.New("up needs root, as nodes are namespaces and control groups: run it with sudo")
	}
	for _, hidden := range []string{"/var/", "/run/", "/proc/", "/sys/"} {
		if strings.HasPrefix(cacheDir(), hidden) {
			return fmt.Errorf("nodes have their own %s, and would not see %s: set PODLESS_CACHE to another place", hidden, cacheDir())
		}
	}
	if !filepath.IsAbs(cacheDir()) {
		return errors.New("PODLESS_CACHE must be an absolute path")
	}
	return installPackages()
}

// installPackages installs what is missing: building needs some of them, nodes the others.
func installPackages() error {
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	install := append([]string{"apt-get", "install", "--yes", "--no-install-recommends"}, missing...)
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("install what the Debian packages %s have", strings.Join(missing, " "))
	}
	os.Setenv("DEBIAN_FRONTEND", "noninteractive")
	err := step("install "+strings.Join(missing, " "), func() error {
		if err := command("apt-get", "update"); err != nil {
			return err
		}
		return command(install...)
	})
	if err != nil {
		return fmt.Errorf("%w\nrun `%s` yourself", err, strings.Join(install, " "))
	}
	if missing := missingPackages(); len(missing) > 0 {
		return fmt.Errorf("still missing after the installation: %s", strings.Join(missing, " "))
	}
	return nil
}

func missingPackages() (missing []string) {
	for _, p := range packages {
		_, err := exec.LookPath(p.proof) // with a slash it looks at the path only, but for an executable
		if strings.Contains(p.proof, "/") {
			_, err = os.Stat(p.proof)
		}
		if err != nil {
			missing = append(missing, p.name)
		}
	}
	return missing
}
