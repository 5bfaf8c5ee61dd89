// An OCI 1.1 registry with the referrers API, over plain HTTP, which keeps its blobs in a folder.
package main

import (
	"flag"
	"fmt"
	"net/http"
	"os"

	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"
)

func registry() {
	flags := flag.NewFlagSet("registry", flag.ExitOnError)
	address := flags.String("address", "127.0.0.1:5000", "host:port to listen on")
	dir := flags.String("dir", "", "folder to keep the images in")
	_ = flags.Parse(os.Args[1:]) // ExitOnError

	enabled := true
	server := olareg.New(config.Config{
		Storage: config.ConfigStorage{StoreType: config.StoreDir, RootDir: *dir},
		API: config.ConfigAPI{
			PushEnabled:   &enabled,
			DeleteEnabled: &enabled,
			Referrer:      config.ConfigAPIReferrer{Enabled: &enabled},
		},
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServe(*address, server))
	os.Exit(1)
}
