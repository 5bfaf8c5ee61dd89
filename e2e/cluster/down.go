// The verb down: ends and undoes everything that up has done, or as much of it as there is.
package main

import (
	"errors"
	"fmt"
	"os"
)

func down(name string) error {
	if os.Geteuid() != 0 {
		return errors.New("down needs root: run it with sudo")
	}
	unlock, err := lock("cluster " + name)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := recorded(name)
	if err != nil {
		return err
	}
	if c == nil {
		fmt.Fprintf(os.Stderr, "cluster %s is not up\n", name)
		return os.RemoveAll(stateDir(name)) // of an `up` that ended before its first record
	}
	if err := c.remove(); err != nil {
		return fmt.Errorf("%w\nrun `cluster --name %s down` again", err, name)
	}
	return nil
}

// remove goes on after an error, so that as little as possible is left; the record stays until nothing is.
func (c *cluster) remove() error {
	var err error
	for _, process := range c.processes() {
		err = errors.Join(err, c.kill(process))
	}
	if err == nil { // a group with processes in it cannot be removed
		err = c.removeCgroups("")
	}
	err = errors.Join(err, c.removeNetwork())
	if err != nil {
		return err
	}
	return c.release()
}
