// Package libcrypto signs with RSA through the system's OpenSSL 3 (libcrypto.so.3), which takes
// about 0.4 of the time that Go's crypto/rsa takes for a key of 2048 bits. It needs no cgo:
// purego loads the library by its soname when the first key is made.
//
// A Key answers exactly as the *rsa.PrivateKey it was made of: PKCS #1 v1.5 is deterministic
// (RFC 8017 section 8.2.1), NewKey compares one signature of both, and whatever the library does
// not do or fails at goes to Go's crypto. Only signatures over SHA-256 go to the library. The
// library is told to read no openssl.cnf, so that providers and engines of the machine stay out
// of the process. It installs no signal handlers on the platforms this package builds for.
//
// The library is absent on platforms other than Linux on amd64 and arm64, on machines without
// OpenSSL 3, and with CAROM_LIBCRYPTO=off in the environment: Version and NewKey then return
// ErrUnavailable or ErrOff, and the caller keeps its Go key.
//
// Everything here is safe for concurrent use. At most GOMAXPROCS signatures are made at once,
// for each holds an operating system's thread; further ones wait. Errors carry OpenSSL's reason,
// never key material. The private key lies in memory of the C heap for as long as the Key is
// reachable, and OpenSSL wipes it when it is freed.
package libcrypto

import (
	"crypto"
	"crypto/rsa"
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"weak"
)

// Env is the environment variable that switches the library off with the value "off".
const Env = "CAROM_LIBCRYPTO"

// The reasons why the library is not used at all.
var (
	// ErrOff says that CAROM_LIBCRYPTO=off is in the environment.
	ErrOff = errors.New("libcrypto is switched off by " + Env)
	// ErrUnavailable says that there is no usable OpenSSL 3 on this machine; errors that wrap it
	// say what is missing.
	ErrUnavailable = errors.New("no usable OpenSSL 3")
)

// Version returns what OpenSSL says of itself ("OpenSSL 3.0.19 27 Jan 2026"). The first call
// loads the library, later ones answer the same. The error is ErrOff or wraps ErrUnavailable.
func Version() (string, error) {
	l, err := load()
	if err != nil {
		return "", err
	}
	return l.version, nil
}

// Key is an RSA key that OpenSSL signs with. It is a crypto.Signer; NewKey makes one.
type Key struct {
	native  *rsa.PrivateKey
	key     *pkey
	failure atomic.Pointer[error] // the first
}

var _ crypto.Signer = (*Key)(nil)

// keys finds the Key of a Go key as long as both live: thousands of queues sign with one key.
var keys = struct {
	sync.Mutex
	byNative map[weak.Pointer[rsa.PrivateKey]]weak.Pointer[Key]
}{byNative: map[weak.Pointer[rsa.PrivateKey]]weak.Pointer[Key]{}}

// NewKey hands key to OpenSSL, which keeps its own copy until the Key is unreachable. Calls with
// the same pointer return the same Key. The error is ErrOff, wraps ErrUnavailable, or says why
// OpenSSL does not take this key; in each case the caller signs with the Go key.
func NewKey(native *rsa.PrivateKey) (*Key, error) {
	l, err := load()
	if err != nil {
		return nil, err
	}
	at := weak.Make(native)
	keys.Lock()
	defer keys.Unlock()
	if k := keys.byNative[at].Value(); k != nil {
		return k, nil
	}
	p, err := l.newKey(native)
	if err != nil {
		return nil, err
	}
	k := &Key{native: native, key: p}
	runtime.AddCleanup(k, func(p *pkey) {
		keys.Lock()
		if keys.byNative[at].Value() == nil { // else a Key that came after this one
			delete(keys.byNative, at)
		}
		keys.Unlock()
		p.free()
	}, p)
	keys.byNative[at] = weak.Make(k)
	return k, nil
}

// Public returns the public key, an *rsa.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.native.Public() }

// Sign is crypto.Signer's. Signatures that OpenSSL is not asked for (PSS, another hash than
// SHA-256) and those that it fails at are made, or refused, by Go's crypto; see Failure.
func (k *Key) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if _, pss := opts.(*rsa.PSSOptions); !pss && opts != nil && opts.HashFunc() == crypto.SHA256 && len(digest) == crypto.SHA256.Size() {
		signature, err := k.key.sign(digest)
		runtime.KeepAlive(k) // its end frees k.key
		if err == nil {
			return signature, nil
		}
		k.failure.CompareAndSwap(nil, &err)
	}
	return k.native.Sign(rand, digest, opts)
}

// Failure returns the first error of OpenSSL in the Key's life, nil if there was none. Signatures
// did not suffer from it: Go's crypto made them.
func (k *Key) Failure() error {
	if err := k.failure.Load(); err != nil {
		return *err
	}
	return nil
}
