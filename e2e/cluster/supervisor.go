// What an init system does in a node: starts services, starts them again when they die, and reaps every orphan.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// restartDelay keeps a service that dies at once from being started in a busy loop.
const restartDelay = 500 * time.Millisecond

type supervisor struct {
	signals chan os.Signal

	mu       sync.Mutex
	children map[int]chan syscall.WaitStatus // of the processes that somebody here waits for
	wake     []chan struct{}                 // one for each service: its files have changed
}

func newSupervisor() *supervisor {
	s := &supervisor{signals: make(chan os.Signal, 16), children: map[int]chan syscall.WaitStatus{}}
	signal.Notify(s.signals, syscall.SIGCHLD, syscall.SIGHUP)
	return s
}

// handleSignals never returns. Only here are processes waited for: PID 1 gets orphans it never started.
func (s *supervisor) handleSignals() {
	for received := range s.signals {
		s.mu.Lock()
		if received == syscall.SIGHUP {
			for _, wake := range s.wake {
				select {
				case wake <- struct{}{}:
				default: // already told
				}
			}
		}
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			if err == syscall.EINTR {
				continue
			}
			if err != nil || pid == 0 {
				break
			}
			if done := s.children[pid]; done != nil {
				done <- status
				delete(s.children, pid)
			}
		}
		s.mu.Unlock()
	}
}

// start runs a program with its output in /var/log/NAME.log; done gets its end.
func (s *supervisor) start(n node, name string, argv []string) (pid int, done chan syscall.WaitStatus, err error) {
	log, err := os.OpenFile(filepath.Join("/var/log", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, nil, err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, nil, err
	}
	defer null.Close()

	s.mu.Lock() // until it is in the table, its end must not be looked up there
	defer s.mu.Unlock()
	pid, err = syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Dir:   "/",
		Env:   n.environment(),
		Files: []uintptr{null.Fd(), log.Fd(), log.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	done = make(chan syscall.WaitStatus, 1)
	s.children[pid] = done
	return pid, done, nil
}

// run runs a program to its end.
func (s *supervisor) run(n node, argv ...string) error {
	name := filepath.Base(argv[0])
	_, done, err := s.start(n, name, argv)
	if err != nil {
		return err
	}
	if status := <-done; status != 0 {
		return fmt.Errorf("%s: exit status %d, see /var/log/%s.log of %s", name, status.ExitStatus(), name, n.Name())
	}
	return nil
}

// keep runs a service for as long as the node lives, but for the times at which it is marked as stopped.
func (s *supervisor) keep(n node, name string, argv ...string) {
	wake := make(chan struct{}, 1)
	s.mu.Lock()
	s.wake = append(s.wake, wake)
	s.mu.Unlock()
	for {
		if exists(n.stopped(name)) {
			<-wake
			continue
		}
		pid, done, err := s.start(n, name, argv)
		if err != nil {
			fmt.Println(err)
		} else {
			_ = os.WriteFile(n.runs(name), nil, 0o644)
			s.watch(n, name, pid, wake, done)
			_ = os.Remove(n.runs(name))
		}
		time.Sleep(restartDelay)
	}
}

// watch returns when the service has ended, by itself or because it is now marked as stopped.
func (s *supervisor) watch(n node, name string, pid int, wake chan struct{}, done chan syscall.WaitStatus) {
	for {
		select {
		case status := <-done:
			fmt.Printf("%s %s has ended: status %d, signal %d\n",
				time.Now().Format(time.RFC3339), name, status.ExitStatus(), status.Signal())
			return
		case <-wake:
			if exists(n.stopped(name)) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
