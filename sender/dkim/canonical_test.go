package dkim

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/emersion/go-msgauth/dkim"

	"carom/sender/dkim/libcrypto"
)

// TestEveryCanonicalizationVerifies signs messages made at random of the pieces that
// canonicalization is about, in all four ways, and has another implementation verify them.
func TestEveryCanonicalizationVerifies(t *testing.T) {
	r := mathrand.New(mathrand.NewPCG(1, 2))
	random := func(pieces ...string) string {
		var b strings.Builder
		for range r.IntN(30) {
			b.WriteString(pieces[r.IntN(len(pieces))])
		}
		return b.String()
	}
	for n := range 400 {
		text := []byte("From: a@example.com\r\nSubJect \t:" + random("x", " ", "\t", "word", "\r\n \tfold", "é", ":") + "\r\n" +
			"to:" + random("X", " ", "\t") + "\r\n\r\n" +
			random("a", " ", "  ", "\t", "\r\n", "\r\n\r\n", " \r\n", "words of a line", ".", strings.Repeat("long", 1000)))
		for _, o := range []Options{{}, {HeaderCanonicalization: Simple}, {BodyCanonicalization: Simple}, {HeaderCanonicalization: Simple, BodyCanonicalization: Simple}} {
			s := newWithOptions(t, o, Key{"s1", "example.com", edKey()})
			sig, err := s.Sign(text)
			if err != nil {
				t.Fatalf("Sign(%q): %v", text, err)
			}
			if _, err := verify(t, append(bytes.Clone(sig.Header), text...), "s1._domainkey.example.com", edKey()); err != nil {
				t.Fatalf("message %d, %v/%v: %v\n%q", n, o.HeaderCanonicalization, o.BodyCanonicalization, err, text)
			}
			end := headerEnd(text)
			streamed, err := s.SignStream(text[:end], iotest.OneByteReader(bytes.NewReader(text[end:])))
			if err != nil || !bytes.Equal(streamed.Header, sig.Header) {
				t.Fatalf("message %d: byte by byte the signature is %q, %v", n, streamed.Header, err)
			}
		}
	}
}

// TestIsReduced tries lines with up to two special bytes at every place of up to 20.
func TestIsReduced(t *testing.T) {
	special := []byte{' ', '\t', '!', 0x1f, 0xa0, 0x89, 0, 0xff, '\n', 8}
	for length := range 20 {
		for at := range length {
			for _, a := range special {
				for _, b := range special {
					line := bytes.Repeat([]byte{'x'}, length)
					line[at] = a
					if at+1 < length {
						line[at+1] = b
					}
					want := !bytes.Contains(line, []byte("  ")) && !bytes.Contains(line, []byte("\t"))
					if got := isReduced(line); got != want {
						t.Fatalf("isReduced(%q) = %t", line, got)
					}
				}
			}
		}
	}
}

// TestLoneLF: a line may end in LF, which the wire makes CRLF.
func TestLoneLF(t *testing.T) {
	s := newSigner(t, Key{"s1", "example.com", edKey()})
	want, err := s.Sign(crlf(message))
	if err != nil {
		t.Fatal(err)
	}
	end := headerEnd(crlf(message))
	got, err := s.SignStream(crlf(message)[:end], strings.NewReader(message[strings.Index(message, "\n\n")+2:]))
	if err != nil || !bytes.Equal(got.Header, want.Header) {
		t.Errorf("got %q, %v, want %q", got.Header, err, want.Header)
	}
}

// native hides the type of a key, so that Go's crypto signs.
type native struct{ crypto.Signer }

func TestLibcryptoSignsTheSame(t *testing.T) {
	fast := newSigner(t, Key{"s1", "example.com", rsaKey()})
	slow := newSigner(t, Key{"s1", "example.com", native{rsaKey()}})
	got, err := fast.Sign(crlf(message))
	if err != nil {
		t.Fatal(err)
	}
	want, err := slow.Sign(crlf(message))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Header, want.Header) {
		t.Errorf("got %q, want %q", got.Header, want.Header)
	}
	_, missing := libcrypto.Version()
	if err := fast.LibcryptoError(); !errors.Is(err, missing) || missing == nil && err != nil {
		t.Errorf("LibcryptoError() = %v, want %v", err, missing)
	}
}

// TestKeyThatLibcryptoRefuses: Go's crypto signs, and LibcryptoError says so.
func TestKeyThatLibcryptoRefuses(t *testing.T) {
	key, err := rsa.GenerateMultiPrimeKey(rand.Reader, 3, 1024) //nolint:staticcheck // such keys exist in old files
	if err != nil {
		t.Fatal(err)
	}
	s := newSigner(t, Key{"s1", "example.com", key})
	sig, err := s.Sign(crlf(message))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verify(t, append(sig.Header, crlf(message)...), "s1._domainkey.example.com", key); err != nil {
		t.Error(err)
	}
	if err := s.LibcryptoError(); err == nil || !strings.Contains(err.Error(), "key s1 for example.com") {
		t.Errorf("LibcryptoError() = %v", err)
	}
}

// free is a key whose signatures cost nothing: what is left is the work on the message.
type free struct{ crypto.Signer }

func (free) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return make([]byte, 256), nil }

// sized returns a message of text lines.
func sized(octets int) []byte {
	var text bytes.Buffer
	text.Write(crlf("From: a@example.com\nTo: b@to.example\nSubject: s\nDate: Thu, 1 Jan 2026 00:00:00 +0000\nMessage-ID: <1@example.com>\n\n"))
	for text.Len() < octets {
		text.WriteString("Seventy characters of text or so, as they stand in most of the mail.\r\n")
	}
	return text.Bytes()
}

// BenchmarkSign signs whole messages with RSA-2048: through libcrypto, with Go's crypto, and with
// a key that costs nothing; and with go-msgauth to compare.
func BenchmarkSign(b *testing.B) {
	for _, kib := range []int{4, 50} {
		text := sized(kib << 10)
		for _, key := range []struct {
			name   string
			signer crypto.Signer
		}{{"libcrypto", rsaKey()}, {"go", native{rsaKey()}}, {"free", free{rsaKey()}}} {
			b.Run(fmt.Sprintf("%dKiB/%s", kib, key.name), func(b *testing.B) {
				s := newSigner(b, Key{"s1", "example.com", key.signer})
				b.SetBytes(int64(len(text)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := s.Sign(text); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
			})
		}
		for _, key := range []struct {
			name   string
			signer crypto.Signer
		}{{"go", rsaKey()}, {"free", free{rsaKey()}}} {
			b.Run(fmt.Sprintf("%dKiB/msgauth-%s", kib, key.name), func(b *testing.B) {
				b.SetBytes(int64(len(text)))
				b.ReportAllocs()
				for b.Loop() {
					if err := dkim.Sign(io.Discard, bytes.NewReader(text), &dkim.SignOptions{
						Domain: "example.com", Selector: "s1", Signer: key.signer,
						HeaderCanonicalization: dkim.CanonicalizationRelaxed, BodyCanonicalization: dkim.CanonicalizationRelaxed,
						HeaderKeys: []string{"From", "To", "Subject", "Date", "Message-ID"},
					}); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
			})
		}
	}
}
