package deliver

import (
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"carom/sender/config"
	"carom/sender/dkim"
	"carom/sender/dkim/libcrypto"
)

// keyFile is the key in a file that may be replaced while the node runs. While mail is signed with
// the key, the file is looked at once a second; one that cannot be used changes nothing, and is
// logged.
type keyFile struct {
	path   string
	logger *slog.Logger

	current atomic.Pointer[dkim.PrivateKey]
	next    atomic.Int64 // UnixNano of the next look

	mu      sync.Mutex    // held while the file is looked at
	native  crypto.Signer // what current was made of
	seen    fs.FileInfo   // of the file that was read last; nil: it must be read
	problem string        // that the last look found, "" for none
	slow    bool          // logged that libcrypto does not sign
}

var _ dkim.Source = (*keyFile)(nil)

// keyFileInterval is how often a key file is looked at.
const keyFileInterval = time.Second

// newKeyFile returns the file from which the configuration has read the key.
func newKeyFile(path string, key crypto.Signer, logger *slog.Logger) (*keyFile, error) {
	f := &keyFile{path: path, logger: logger, native: key}
	private, err := dkim.NewPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("domain-key %s: %w", path, err)
	}
	f.current.Store(private)
	// A file that was just written may have changed since the configuration was read.
	if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > time.Minute {
		f.seen = info
	}
	return f, nil
}

// Private returns the key to sign with. One caller a second looks at the file, the others do not
// wait for it.
func (f *keyFile) Private() *dkim.PrivateKey {
	now := time.Now()
	next := f.next.Load()
	if now.UnixNano() >= next || next-now.UnixNano() > int64(keyFileInterval) { // or the clock was set back
		if f.next.CompareAndSwap(next, now.Add(keyFileInterval).UnixNano()) {
			f.look()
		}
	}
	return f.current.Load()
}

func (f *keyFile) look() {
	f.mu.Lock()
	defer f.mu.Unlock()
	changed, err := f.read()
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	if problem != "" && problem != f.problem {
		f.logger.Error("DKIM key file cannot be used, the old key signs", "file", f.path, "error", err)
	}
	f.problem = problem
	if changed {
		f.logger.Info("DKIM key was replaced", "file", f.path)
	}
	err = f.current.Load().LibcryptoError()
	if err == nil || errors.Is(err, libcrypto.ErrOff) || errors.Is(err, libcrypto.ErrUnavailable) || f.slow {
		return // those two are said once for all keys
	}
	f.slow = true
	f.logger.Warn("DKIM signs with Go's crypto, not with libcrypto", "file", f.path, "error", err)
}

// read reads the file if it is another than before, and reports whether the key is.
func (f *keyFile) read() (changed bool, err error) {
	info, err := os.Stat(f.path)
	if err != nil {
		return false, err
	}
	if f.seen != nil && os.SameFile(info, f.seen) && info.Size() == f.seen.Size() && info.ModTime().Equal(f.seen.ModTime()) {
		return false, nil
	}
	native, err := config.ReadKey(f.path)
	f.seen = info // a bad file is not read again until it changes
	if err != nil {
		return false, err
	}
	if old, ok := f.native.Public().(interface{ Equal(crypto.PublicKey) bool }); ok && old.Equal(native.Public()) {
		return false, nil
	}
	private, err := dkim.NewPrivateKey(native)
	if err != nil {
		return false, err
	}
	f.native, f.slow = native, false
	f.current.Store(private)
	return true, nil
}
