//go:build unix

package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"carom/schemas/service"
)

const lockName = "carom.lock"

// lockFolder takes the exclusive lock on the data folder, which ends with the file or the process.
// The error is a service.ConfigError that names the holder.
func lockFolder(folder string) (*os.File, error) {
	path := filepath.Join(folder, lockName)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fmt.Errorf("lock data folder: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, readErr := os.ReadFile(path)
		_ = file.Close()
		switch {
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return nil, fmt.Errorf("lock data folder %s: %w", folder, err)
		case readErr != nil || len(holder) == 0:
			return nil, service.Configf("data folder %s is in use by another process", folder)
		}
		return nil, service.Configf("data folder %s is in use by %s", folder, strings.TrimSpace(string(holder)))
	}
	name, err := os.Executable()
	if err != nil {
		name = os.Args[0]
	}
	if err := writeHolder(file, fmt.Sprintf("process %d (%s)\n", os.Getpid(), filepath.Base(name))); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("lock data folder: %w", err)
	}
	return file, nil
}

func writeHolder(file *os.File, holder string) error {
	if err := file.Truncate(0); err != nil {
		return err
	}
	_, err := file.WriteAt([]byte(holder), 0)
	return err
}
