//go:build linux && (amd64 || arm64)

package libcrypto

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"strings"
	"testing"
)

func TestFailureGoesToGo(t *testing.T) {
	available(t)
	native := generate(t, 2048)
	k := newKey(t, native)
	k.key.size = 1 // OpenSSL finds the room for the signature too small
	digest := sha256.Sum256([]byte("x"))
	for range 3 {
		got, err := k.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if err := rsa.VerifyPKCS1v15(&native.PublicKey, crypto.SHA256, digest[:], got); err != nil {
			t.Error(err)
		}
	}
	if err := k.Failure(); err == nil || !strings.Contains(err.Error(), "sign: OpenSSL: error:") {
		t.Errorf("Failure() = %v, want OpenSSL's reason", err)
	}
}

func TestDecodeSaysWhy(t *testing.T) {
	available(t)
	l, err := load()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.decode([]byte("no key")); err == nil || !strings.HasPrefix(err.Error(), "decode key: OpenSSL: error:") {
		t.Errorf("decode of garbage: %v", err)
	}
}
