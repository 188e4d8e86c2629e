// Command pack puts the built plugin into a zip, as Grafana's catalogue wants it, and checks it first.
//
//	go run ./grafana-plugin/pack grafana-plugin/dist
//
// The zip is carom-deliverability-datasource-VERSION.zip in that folder, with one folder in it that is
// called like the plugin. It is the same for the same files: times are those of the plugin's date.
package main

import (
	"archive/zip"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: pack FOLDER\nFOLDER is where the plugin was built: grafana-plugin/dist")
		os.Exit(2)
	}
	name, err := pack(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
	_, _ = fmt.Fprintln(os.Stdout, name)
}

// manifest is what is read of plugin.json.
type manifest struct {
	ID         string `json:"id"`
	Type       string `json:"type"`
	Name       string `json:"name"`
	Backend    bool   `json:"backend"`
	Executable string `json:"executable"`
	Info       struct {
		Description string                `json:"description"`
		Author      struct{ Name string } `json:"author"`
		Keywords    []string              `json:"keywords"`
		Logos       map[string]string     `json:"logos"`
		Screenshots []struct{ Name, Path string }
		Version     string `json:"version"`
		Updated     string `json:"updated"`
	} `json:"info"`
	Dependencies struct {
		GrafanaDependency string `json:"grafanaDependency"`
	} `json:"dependencies"`
	Includes []struct{ Type, Name, Path string } `json:"includes"`
}

var version = regexp.MustCompile(`^\d+\.\d+\.\d+(-[0-9A-Za-z.]+)?$`)

// check returns everything that is wrong with the built plugin.
func check(folder fs.FS) (manifest, error) {
	var m manifest
	text, err := fs.ReadFile(folder, "plugin.json")
	if err != nil {
		return m, fmt.Errorf("no plugin.json: build the frontend first (make plugin): %w", err)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("plugin.json: %w", err)
	}
	var wrong []error
	add := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	for field, value := range map[string]string{
		"id": m.ID, "name": m.Name, "info.description": m.Info.Description, "info.author.name": m.Info.Author.Name,
		"dependencies.grafanaDependency": m.Dependencies.GrafanaDependency, "info.logos.small": m.Info.Logos["small"], "info.logos.large": m.Info.Logos["large"],
	} {
		if value == "" {
			add("plugin.json has no %s", field)
		}
	}
	if m.Type != "datasource" || !strings.HasSuffix(m.ID, "-datasource") {
		add("plugin.json: id %q and type %q: want …-datasource and datasource", m.ID, m.Type)
	}
	if !version.MatchString(m.Info.Version) {
		add("plugin.json: version %q: want 1.2.3", m.Info.Version)
	}
	if _, err := time.Parse(time.DateOnly, m.Info.Updated); err != nil {
		add("plugin.json: updated %q: want a date", m.Info.Updated)
	}
	named := []string{"README.md", "CHANGELOG.md", "LICENSE", "module.js", m.Info.Logos["small"], m.Info.Logos["large"]}
	for _, s := range m.Info.Screenshots {
		named = append(named, s.Path)
	}
	for _, i := range m.Includes {
		named = append(named, i.Path)
	}
	for _, name := range slices.Compact(named) {
		if info, err := fs.Stat(folder, name); name != "" && (err != nil || info.Size() == 0) {
			add("%s is missing or empty", name)
		}
	}
	if log, err := fs.ReadFile(folder, "CHANGELOG.md"); err == nil && !strings.Contains(string(log), "## "+m.Info.Version+"\n") {
		add("CHANGELOG.md says nothing of %s", m.Info.Version)
	}
	binaries, err := fs.Glob(folder, m.Executable+"_linux_*")
	if err != nil || m.Executable == "" || len(binaries) == 0 {
		add("no backend: want %s_linux_amd64", m.Executable)
	}
	for _, name := range binaries {
		if info, err := fs.Stat(folder, name); err != nil || info.Mode()&0o111 != 0o111 {
			add("%s cannot be run: its mode lacks x", name)
		}
	}
	return m, errors.Join(wrong...)
}

// wanted says which files go into the zip.
func wanted(name string) bool {
	return !strings.HasSuffix(name, ".zip") && !strings.HasPrefix(path.Base(name), ".")
}

// pack checks the plugin and writes its zip, which it returns the name of.
func pack(folder string) (name string, err error) {
	files := os.DirFS(folder)
	m, err := check(files)
	if err != nil {
		return "", err
	}
	date, err := time.Parse(time.DateOnly, m.Info.Updated)
	if err != nil {
		return "", err
	}
	name = filepath.Join(folder, m.ID+"-"+m.Info.Version+".zip")
	out, err := os.CreateTemp(folder, ".zip-*")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.Remove(out.Name()) }() // gone already if all went well
	z := zip.NewWriter(out)
	err = fs.WalkDir(files, ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !wanted(file) {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		header := &zip.FileHeader{Name: path.Join(m.ID, file), Method: zip.Deflate, Modified: date}
		header.SetMode(info.Mode().Perm())
		w, err := z.CreateHeader(header)
		if err != nil {
			return err
		}
		text, err := fs.ReadFile(files, file)
		if err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	})
	if err := errors.Join(err, z.Close(), out.Chmod(0o644), out.Close()); err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	return name, os.Rename(out.Name(), name)
}
