// Processes that outlive this program: started, recorded by pid and start time, and ended only when both still match.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// identity is what makes a process itself: a pid alone is given to another one sooner or later.
type identity struct {
	pid   int
	start string // in clock ticks since the machine's boot
}

// identify reads the identity of a process; ok is false when there is none, or when it is a zombie.
func identify(pid int) (id identity, ok bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return id, false
	}
	// The second field is the name in parentheses, which may itself contain spaces and parentheses.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const state, startTime = 0, 19 // fields 3 and 22 of proc_pid_stat(5)
	return identity{pid, fields[startTime]}, fields[state] != "Z"
}

func (c *cluster) pidFile(name string) string { return c.Dir("pids", name) }

// start runs a command as a daemon in the host's namespaces, its output in the log of that name.
func (c *cluster) start(name string, command ...string) error {
	return c.spawn(name, exec.Command(command[0], command[1:]...))
}

func (c *cluster) spawn(name string, command *exec.Cmd) error {
	for _, folder := range []string{c.Dir("log"), c.Dir("pids")} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	log, err := os.OpenFile(c.logFile(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	command.Stdout, command.Stderr = log, log
	command.Env = c.environment()
	if command.SysProcAttr == nil {
		command.SysProcAttr = &syscall.SysProcAttr{}
	}
	command.SysProcAttr.Setsid = true
	if err := command.Start(); err != nil {
		return err
	}
	id, _ := identify(command.Process.Pid)
	go command.Wait() // or it stays a zombie while this program runs
	return os.WriteFile(c.pidFile(name), fmt.Appendf(nil, "%d %s\n", id.pid, id.start), 0o644)
}

// environment is all that a component sees of ours: neither proxies nor secrets of who started the cluster.
func (c *cluster) environment() []string {
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, folder := range c.Bin {
		path = folder + ":" + path
	}
	return []string{"PATH=" + path, "HOME=/root"}
}

// pid is the recorded process, or 0 when it does not run any more.
func (c *cluster) pid(name string) int {
	data, err := os.ReadFile(c.pidFile(name))
	if err != nil || c.Boot != bootID() {
		return 0
	}
	var id identity
	if _, err := fmt.Sscan(string(data), &id.pid, &id.start); err != nil {
		return 0
	}
	if now, ok := identify(id.pid); !ok || now != id {
		return 0
	}
	return id.pid
}

func (c *cluster) alive(name string) bool { return c.pid(name) != 0 }

// kill ends a recorded process at once, waits until it is gone and forgets it.
func (c *cluster) kill(name string) error {
	if pid := c.pid(name); pid != 0 {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			return fmt.Errorf("end %s (pid %d): %w", name, pid, err)
		}
		gone := func() error {
			if c.alive(name) {
				return fmt.Errorf("pid %d still runs", pid)
			}
			return nil
		}
		if err := waitFor("the end of "+name, 20*time.Second, gone); err != nil {
			return err
		}
	}
	if err := os.Remove(c.pidFile(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// processes are the names of all that were started and not yet ended.
func (c *cluster) processes() []string {
	files, _ := filepath.Glob(c.pidFile("*"))
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	return files
}

// become replaces this process by a command, found in PATH.
func become(command []string) error {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	return syscall.Exec(path, command, os.Environ())
}

// command runs a short-lived tool; its error has what the tool said.
func command(argv ...string) error {
	output, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(output)))
	}
	return nil
}
