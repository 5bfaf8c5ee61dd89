// Progress on the terminal: one line for each step, with the time it took.
package main

import (
	"fmt"
	"os"
	"time"
)

// progress announces a step. On a terminal its line counts the seconds until done is called; elsewhere (CI) there is one
// line at the start and one at the end.
func progress(step string) (done func(error)) {
	start := time.Now()
	info, err := os.Stderr.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	stop, stopped := make(chan struct{}), make(chan struct{})
	if !terminal {
		fmt.Fprintf(os.Stderr, "%s ...\n", step)
	}
	go func() {
		defer close(stopped)
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for terminal {
			fmt.Fprintf(os.Stderr, "\r\033[K%s ... %.0f s", step, time.Since(start).Seconds())
			select {
			case <-stop:
				fmt.Fprint(os.Stderr, "\r\033[K")
				return
			case <-ticker.C:
			}
		}
	}()
	return func(err error) {
		close(stop)
		<-stopped
		result := "done"
		if err != nil {
			result = "failed"
		}
		fmt.Fprintf(os.Stderr, "%-40s %6.1f s\n", step+" "+result, time.Since(start).Seconds())
	}
}

// step runs a function as a step.
func step(name string, run func() error) error {
	done := progress(name)
	err := run()
	done(err)
	return err
}
