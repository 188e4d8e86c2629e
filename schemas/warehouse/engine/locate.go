package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"carom/schemas/service"
)

// LibraryName is the file name of the engine library.
const LibraryName = "libchdb.so"

// LibraryEnv is the environment variable that names the engine library.
const LibraryEnv = "CAROM_ENGINE_LIB"

// FindLibrary returns the path of the engine library: given if that is not empty, else
// $CAROM_ENGINE_LIB, else the first that exists of libchdb.so beside the executable, in
// ./build/engine and in /usr/lib/carom. A path that was given is not looked for elsewhere.
// The error is a service.ConfigError that names the places.
func FindLibrary(given string) (string, error) {
	for _, named := range []struct{ by, path string }{
		{"--engine-lib", given},
		{LibraryEnv, os.Getenv(LibraryEnv)},
	} {
		if named.path == "" {
			continue
		}
		if _, err := os.Stat(named.path); err != nil {
			return "", service.Configf("engine library named by %s: %w (make engine fetches it to ./build/engine/%s)", named.by, err, LibraryName)
		}
		return filepath.Abs(named.path)
	}
	var places []string
	if executable, err := os.Executable(); err == nil {
		places = append(places, filepath.Dir(executable))
	}
	places = append(places, filepath.Join("build", "engine"), "/usr/lib/carom")
	for i, folder := range places {
		places[i] = filepath.Join(folder, LibraryName)
		if _, err := os.Stat(places[i]); err == nil {
			return filepath.Abs(places[i])
		}
	}
	return "", service.Configf("engine library not found: --engine-lib and %s are not set, and there is no %s; run make engine",
		LibraryEnv, strings.Join(places, ", no "))
}

// absFolder makes folder if needed and returns its absolute path.
func absFolder(folder string) (string, error) {
	abs, err := filepath.Abs(folder)
	if err != nil {
		return "", fmt.Errorf("data folder: %w", err)
	}
	if err := os.MkdirAll(abs, 0o750); err != nil {
		return "", fmt.Errorf("data folder: %w", err)
	}
	return abs, nil
}
