package policy

import (
	_ "embed"
	"fmt"
	"os"
	"sync"
	"time"
)

// Text is the policy without a file as YAML, with what each word means. It is made from the structs and
// their comments by a test.
//
//go:embed default.yaml
var Text string

// File is a policy file that is read again when it changes. A text with a mistake changes nothing: the
// policy of before stays in force, and Current says what is wrong. It is safe for concurrent use.
type File struct {
	name string

	mu      sync.Mutex
	current *Policy
	err     error // of the newest text
	changed time.Time
	size    int64
}

// OpenFile reads the policy file name; "" is the default policy, which never changes. A mistake is an error:
// there is no policy of before.
func OpenFile(name string) (*File, error) {
	f := &File{name: name}
	if name != "" {
		if err := f.look(); err != nil {
			return nil, fmt.Errorf("policy: %w", err)
		}
	}
	p, err := Load(name)
	if err != nil {
		return nil, err
	}
	f.current = p
	return f, nil
}

// Current returns the policy in force. With an error it is an older one than the file's, which has a
// mistake or cannot be read.
func (f *File) Current() (*Policy, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.name == "" {
		return f.current, nil
	}
	changed, size := f.changed, f.size
	if err := f.look(); err != nil {
		f.err = fmt.Errorf("policy: %w", err)
		return f.current, f.err
	}
	if f.changed.Equal(changed) && f.size == size {
		return f.current, f.err
	}
	p, err := Load(f.name)
	if f.err = err; err == nil {
		f.current = p
	}
	return f.current, f.err
}

// look notes time and size of the file; the zero time if it is not there, so that its return is a change.
func (f *File) look() error {
	info, err := os.Stat(f.name)
	if err != nil {
		f.changed, f.size = time.Time{}, 0
		return err
	}
	f.changed, f.size = info.ModTime(), info.Size()
	return nil
}
