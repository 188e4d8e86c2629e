package up

import (
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"carom/schemas/service"
	"carom/sender/config"
)

//go:embed first.conf
var firstConfig string

//go:embed first-policy.yaml
var firstPolicy string

// writeFirst writes the configuration file and the keys that it names, unless the file is there.
func writeFirst(dir, file, listen, smtp string) error {
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	if listen == "" {
		listen = defaultHTTP
	}
	if smtp == "" {
		smtp = defaultSMTP
	}
	for flag, address := range map[string]string{"--listen": listen, "--smtp": smtp} {
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "0" || net.ParseIP(host) == nil {
			return service.Configf("carom up: %s %q: want IP:PORT, such as 127.0.0.1:2525; the configuration keeps it, so port 0 will not do", flag, address)
		}
	}
	for _, name := range []string{"reference.key", "suppression.key"} {
		if err := WriteKey(filepath.Join(dir, "keys", name)); err != nil {
			return err
		}
	}
	var b strings.Builder
	err := template.Must(template.New("first").Parse(firstConfig)).Execute(&b, map[string]string{
		"HostName": hostName(), "HTTP": listen, "SMTP": smtp,
	})
	if err != nil {
		return fmt.Errorf("write first configuration: %w", err)
	}
	return writeNew(file, b.String(), 0o640)
}

// hostName returns what the system calls the machine, if a configuration can say it.
func hostName() string {
	if name, err := os.Hostname(); err == nil {
		if c, _, err := config.Parse("host", []byte("host-name "+name)); err == nil {
			return c.HostName()
		}
	}
	return "localhost"
}

// WriteKey writes 32 random bytes in hexadecimal to a new file that only its owner can read. A
// file that is there stays as it is.
func WriteKey(file string) error {
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails
	return writeNew(file, hex.EncodeToString(key[:])+"\n", 0o600)
}

// writeNew writes text to a file that is not there yet, and makes its folder.
func writeNew(file, text string, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return service.Configf("carom up: %w", err)
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode) //nolint:gosec // the operator named the folder
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return service.Configf("carom up: %w", err)
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		// A torn file must not pass for the operator's own at the next start.
		return errors.Join(fmt.Errorf("write %s: %w", file, err), os.Remove(file))
	}
	return nil
}
