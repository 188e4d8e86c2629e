package main

import (
	"archive/zip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const id = "carom-deliverability-datasource"

// built returns a folder with the plugin's own files, and small ones for what a build makes.
func built(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	if err := os.CopyFS(folder, os.DirFS("../src")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(folder, "plugin.json"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile("../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(log), "\n## ")
	released, _, _ := strings.Cut(rest, "\n")
	text = []byte(strings.NewReplacer("%VERSION%", released, "%TODAY%", "2026-11-29").Replace(string(text)))
	for name, content := range map[string]string{
		"plugin.json": string(text), "CHANGELOG.md": string(log), "README.md": "x", "LICENSE": "x", "module.js": "define()", "old.zip": "x",
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(folder, "gpx_carom_deliverability_linux_amd64"), []byte("x"), 0o700); err != nil { //nolint:gosec // it is to be run
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(folder, "gpx_carom_deliverability_linux_amd64"), 0o755); err != nil { //nolint:gosec // the same
		t.Fatal(err)
	}
	return folder
}

func TestPack(t *testing.T) {
	folder := built(t)
	name, err := pack(folder)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zip.OpenReader(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = z.Close() }() // only read
	modes := map[string]os.FileMode{}
	for _, f := range z.File {
		if !strings.HasPrefix(f.Name, id+"/") || strings.HasSuffix(f.Name, ".zip") {
			t.Errorf("%s does not belong into the zip", f.Name)
		}
		modes[strings.TrimPrefix(f.Name, id+"/")] = f.Mode()
	}
	if mode := modes["gpx_carom_deliverability_linux_amd64"]; mode&0o111 != 0o111 {
		t.Errorf("the backend has mode %v in the zip", mode)
	}
	for _, want := range []string{"plugin.json", "module.js", "README.md", "CHANGELOG.md", "LICENSE", "img/logo.svg", "dashboards/overview.json"} {
		if _, ok := modes[want]; !ok {
			t.Errorf("the zip has no %s", want)
		}
	}
}

func TestCheck(t *testing.T) {
	edit := func(name, from, to string) func(t *testing.T, folder string) {
		return func(t *testing.T, folder string) {
			t.Helper()
			text, err := os.ReadFile(filepath.Join(folder, name)) //nolint:gosec // the test's own folder
			if err != nil {
				t.Fatal(err)
			}
			changed := strings.Replace(string(text), from, to, 1)
			if changed == string(text) {
				t.Fatalf("%s has no %q", name, from)
			}
			if err := os.WriteFile(filepath.Join(folder, name), []byte(changed), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(name string) func(t *testing.T, folder string) {
		return func(t *testing.T, folder string) {
			t.Helper()
			if err := os.Remove(filepath.Join(folder, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, folder string)
		want   string
	}{
		{"no manifest", remove("plugin.json"), "no plugin.json"},
		{"no JSON", edit("plugin.json", "{", "["), "plugin.json:"},
		{"no frontend", remove("module.js"), "module.js is missing"},
		{"no licence", remove("LICENSE"), "LICENSE is missing"},
		{"no logo", remove("img/logo.svg"), "img/logo.svg is missing"},
		{"a dashboard less", remove("dashboards/overview.json"), "dashboards/overview.json is missing"},
		{"no backend", remove("gpx_carom_deliverability_linux_amd64"), "no backend"},
		{"another sort of plugin", edit("plugin.json", `"datasource"`, `"panel"`), "type"},
		{"no version", edit("plugin.json", `"version": "`, `"version": "v`), "want 1.2.3"},
		{"nothing in the changelog", edit("CHANGELOG.md", "\n## ", "\n## 9"), "CHANGELOG.md says nothing"},
		{"no description", edit("plugin.json", `"description"`, `"words"`), "info.description"},
		{"the backend cannot be run", func(t *testing.T, folder string) {
			t.Helper()
			if err := os.Chmod(filepath.Join(folder, "gpx_carom_deliverability_linux_amd64"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "cannot be run"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			folder := built(t)
			tc.change(t, folder)
			_, err := pack(folder)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
			if left, _ := filepath.Glob(filepath.Join(folder, id+"*.zip")); len(left) > 0 {
				t.Errorf("it wrote %v all the same", left)
			}
		})
	}
}
