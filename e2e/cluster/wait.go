// Waiting for conditions: polled until they hold, with a deadline, and the end of a log when it passes.
package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// waitFor polls until ready returns nil. When the time is over, the error has the last reason and the end of each log.
func waitFor(what string, limit time.Duration, ready func() error, logs ...string) error {
	deadline := time.Now().Add(limit)
	for {
		reason := ready()
		if reason == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %v for %s: %w%s", limit, what, reason, tails(logs))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// waitForProcess is waitFor for something that a recorded process does: it fails at once when that process has died.
func (c *cluster) waitForProcess(process, what string, limit time.Duration, ready func() error) error {
	var died error
	err := waitFor(what, limit, func() error {
		if !c.alive(process) {
			died = fmt.Errorf("%s has died%s", process, tails([]string{c.logFile(process)}))
			return nil
		}
		return ready()
	}, c.logFile(process))
	if died != nil {
		return died
	}
	return err
}

// tails is the last lines of each log, to be put behind an error.
func tails(logs []string) string {
	const lines = 15
	var text strings.Builder
	for _, log := range logs {
		data, err := os.ReadFile(log)
		if err != nil {
			continue
		}
		all := strings.Split(strings.TrimSpace(string(data)), "\n")
		fmt.Fprintf(&text, "\n--- the end of %s:\n%s", log, strings.Join(all[max(0, len(all)-lines):], "\n"))
	}
	return text.String()
}
