// The components' configuration files: templates in config/, filled in for one cluster or one of its nodes.
package main

import (
	"embed"
	"os"
	"path/filepath"
	"text/template"
)

//go:embed config
var configFiles embed.FS

var templates = template.Must(template.New("").Option("missingkey=error").ParseFS(configFiles, "config/*"))

// render writes a template of config/ to a path that only root can read.
func render(name, path string, values any) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	return templates.ExecuteTemplate(file, name, values)
}
