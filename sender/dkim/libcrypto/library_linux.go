//go:build linux && (amd64 || arm64)

package libcrypto

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"github.com/ebitengine/purego"
)

// soname is looked up by the dynamic linker, in the machine's library folders.
const soname = "libcrypto.so.3"

// Numbers of OpenSSL's headers (evp.h, rsa.h, crypto.h).
const (
	typeRSA      = 6 // EVP_PKEY_RSA
	paddingPKCS1 = 1 // RSA_PKCS1_PADDING

	initNoLoadConfig = 0x00000080 // OPENSSL_INIT_NO_LOAD_CONFIG
	// OPENSSL_INIT_NO_ATEXIT: a thread may be signing while another ends the process.
	initNoAtExit = 0x00080000
)

// library is the loaded OpenSSL. It is never unloaded. Handles of C objects are uintptr.
type library struct {
	version string
	sha256  uintptr // EVP_MD
	turns   turns

	initCrypto    func(options uint64, settings uintptr) int32
	versionMajor  func() uint32
	versionText   func(kind int32) string
	mdSHA256      func() uintptr
	d2iPrivateKey func(kind int32, target uintptr, der **byte, length int) uintptr
	keySize       func(key uintptr) int32
	keyFree       func(key uintptr)
	newContext    func(lib, key, properties uintptr) uintptr
	signInit      func(context uintptr) int32
	setPadding    func(context uintptr, padding int32) int32
	setMD         func(context, md uintptr) int32
	signDigest    func(context uintptr, signature *byte, signatureLen *uintptr, digest *byte, digestLen uintptr) int32
	contextFree   func(context uintptr)
	getError      func() uint64
	clearError    func()
	errorString   func(code uint64, text *byte, length uintptr)
}

// turns are taken to sign: at most free signatures are made at once. No channel: a bubble of
// testing/synctest may share the library with the world outside.
type turns struct {
	mu    sync.Mutex
	given sync.Cond // of mu: a turn was given back
	free  int
}

func (t *turns) take() {
	t.mu.Lock()
	for t.free == 0 {
		t.given.Wait()
	}
	t.free--
	t.mu.Unlock()
}

func (t *turns) giveBack() {
	t.mu.Lock()
	t.free++
	t.mu.Unlock()
	t.given.Signal()
}

var load = sync.OnceValues(open)

func open() (*library, error) {
	if os.Getenv(Env) == "off" {
		return nil, ErrOff
	}
	handle, err := purego.Dlopen(soname, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	l := &library{}
	l.turns.free, l.turns.given.L = runtime.GOMAXPROCS(0), &l.turns.mu
	for _, symbol := range []struct {
		name   string
		target any
	}{
		{"OPENSSL_init_crypto", &l.initCrypto},
		{"OPENSSL_version_major", &l.versionMajor},
		{"OpenSSL_version", &l.versionText},
		{"EVP_sha256", &l.mdSHA256},
		{"d2i_PrivateKey", &l.d2iPrivateKey},
		{"EVP_PKEY_get_size", &l.keySize},
		{"EVP_PKEY_free", &l.keyFree},
		{"EVP_PKEY_CTX_new_from_pkey", &l.newContext},
		{"EVP_PKEY_sign_init", &l.signInit},
		{"EVP_PKEY_CTX_set_rsa_padding", &l.setPadding},
		{"EVP_PKEY_CTX_set_signature_md", &l.setMD},
		{"EVP_PKEY_sign", &l.signDigest},
		{"EVP_PKEY_CTX_free", &l.contextFree},
		{"ERR_get_error", &l.getError},
		{"ERR_clear_error", &l.clearError},
		{"ERR_error_string_n", &l.errorString},
	} {
		address, err := purego.Dlsym(handle, symbol.name)
		if err != nil {
			return nil, fmt.Errorf("%w: %s has no function %s", ErrUnavailable, soname, symbol.name)
		}
		purego.RegisterFunc(symbol.target, address)
	}
	if l.initCrypto(initNoLoadConfig|initNoAtExit, 0) != 1 {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, l.err("initialise"))
	}
	l.version = l.versionText(0)
	if major := l.versionMajor(); major != 3 {
		return nil, fmt.Errorf("%w: %s is %s", ErrUnavailable, soname, l.version)
	}
	l.sha256 = l.mdSHA256()
	return l, nil
}

// err returns the reason on top of the calling thread's error queue and empties the queue. It is
// the reason of the call that failed if the goroutine has been locked to its thread since.
func (l *library) err(doing string) error {
	code := l.getError()
	l.clearError()
	if code == 0 {
		return fmt.Errorf("%s: OpenSSL gives no reason", doing)
	}
	var text [256]byte // longer texts are cut
	l.errorString(code, &text[0], uintptr(len(text)))
	reason, _, _ := bytes.Cut(text[:], []byte{0})
	return fmt.Errorf("%s: OpenSSL: %s", doing, reason)
}

// pkey is a private key in OpenSSL (EVP_PKEY).
type pkey struct {
	library *library
	handle  uintptr
	size    int // of a signature, octets

	mu       sync.Mutex
	contexts []uintptr // initialised EVP_PKEY_CTX that no signature uses now: no more than turns
}

func (l *library) newKey(native *rsa.PrivateKey) (*pkey, error) {
	if len(native.Primes) != 2 {
		return nil, fmt.Errorf("key of %d primes", len(native.Primes))
	}
	if err := native.Validate(); err != nil {
		return nil, err
	}
	p, err := l.decode(x509.MarshalPKCS1PrivateKey(native))
	if err != nil {
		return nil, err
	}
	if err := p.compare(native); err != nil {
		p.free()
		return nil, err
	}
	return p, nil
}

// decode makes a key from a PKCS #1 RSAPrivateKey, which it wipes.
func (l *library) decode(der []byte) (*pkey, error) {
	defer clear(der)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var pin runtime.Pinner
	defer pin.Unpin()
	at := &der[0]
	pin.Pin(at) // OpenSSL gets the address of a variable that holds it
	handle := l.d2iPrivateKey(typeRSA, 0, &at, len(der))
	if handle == 0 {
		return nil, l.err("decode key")
	}
	return &pkey{library: l, handle: handle, size: int(l.keySize(handle))}, nil
}

// compare makes sure that OpenSSL signs as Go's crypto does.
func (p *pkey) compare(native *rsa.PrivateKey) error {
	digest := sha256.Sum256([]byte("carom"))
	want, err := native.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return err
	}
	got, err := p.sign(digest[:])
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return errors.New("OpenSSL signs otherwise than Go's crypto")
	}
	return nil
}

// sign makes the PKCS #1 v1.5 signature of a SHA-256 digest.
func (p *pkey) sign(digest []byte) ([]byte, error) {
	p.library.turns.take()
	defer p.library.turns.giveBack()
	signature, err := p.signNow(digest)
	if err == nil {
		return signature, nil
	}
	// The queue of errors belongs to the thread. A locked thread makes the scheduler's work after
	// each call dearer, hence only now, to hear the reason.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p.library.clearError()
	return p.signNow(digest)
}

func (p *pkey) signNow(digest []byte) ([]byte, error) {
	l := p.library
	context, err := p.context()
	if err != nil {
		return nil, err
	}
	signature := make([]byte, p.size)
	length := uintptr(len(signature))
	if l.signDigest(context, &signature[0], &length, &digest[0], uintptr(len(digest))) != 1 {
		l.contextFree(context)
		return nil, l.err("sign")
	}
	p.mu.Lock()
	p.contexts = append(p.contexts, context)
	p.mu.Unlock()
	return signature[:length], nil
}

// context returns a context that is ready to sign. Two signatures at once cannot share one.
func (p *pkey) context() (uintptr, error) {
	p.mu.Lock()
	if n := len(p.contexts); n > 0 {
		c := p.contexts[n-1]
		p.contexts = p.contexts[:n-1]
		p.mu.Unlock()
		return c, nil
	}
	p.mu.Unlock()
	l := p.library
	c := l.newContext(0, p.handle, 0)
	if c == 0 {
		return 0, l.err("make context")
	}
	if l.signInit(c) != 1 || l.setPadding(c, paddingPKCS1) != 1 || l.setMD(c, l.sha256) != 1 {
		l.contextFree(c)
		return 0, l.err("prepare context")
	}
	return c, nil
}

// free gives the key and its contexts back; nothing may sign with it then or later.
func (p *pkey) free() {
	for _, c := range p.contexts {
		p.library.contextFree(c)
	}
	p.library.keyFree(p.handle)
}
