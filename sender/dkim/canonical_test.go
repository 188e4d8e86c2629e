package dkim

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

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
			s := newWithOptions(t, o, Key{"s1", "example.com", private(edKey())})
			sig, err := s.Sign(NewMessage(text), Request{})
			if err != nil {
				t.Fatalf("Sign(%q): %v", text, err)
			}
			if _, err := verify(t, append(bytes.Clone(sig.Header), text...), "s1._domainkey.example.com", edKey()); err != nil {
				t.Fatalf("message %d, %v/%v: %v\n%q", n, o.HeaderCanonicalization, o.BodyCanonicalization, err, text)
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

var blanks = regexp.MustCompile(`[ \t]+`)

// canonicalBody is RFC 6376 sections 3.4.3 and 3.4.4 read aloud.
func canonicalBody(c Canonicalization, body string) string {
	lines := strings.Split(body, "\n")
	for i, line := range lines {
		if i < len(lines)-1 {
			line = strings.TrimSuffix(line, "\r")
		}
		if c == Relaxed {
			line = blanks.ReplaceAllLiteralString(line, " ")
			line = strings.TrimSuffix(line, " ")
		}
		lines[i] = line
	}
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	if len(lines) == 0 && c == Relaxed {
		return ""
	}
	return strings.Join(lines, "\r\n") + "\r\n"
}

// FuzzBody compares with the plain form what is written in pieces.
func FuzzBody(f *testing.F) {
	for _, body := range []string{
		"", "\r\n", "\n", "\r\n\r\n", "a", "a\r", "\ra\r\r\n", " ", "\t\r\n\r\n", "\r\n\r\na\r\n\r\nb", "a\r\n \r\nb\r\n",
		"a  b\r\nc\r\n", "a  b\r\n\r\nc d\r\ne \r\nf\r\n\r\n", "a\nb\n\nc\n", " a\tb \r\n", "a\r\n\nb", "a  \r\n\r\n\r\n",
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		for _, c := range []Canonicalization{Relaxed, Simple} {
			want := canonicalBody(c, body)
			m := Message{body: []byte(body)}
			if got := m.hashBody(c); got.sum != sha256.Sum256([]byte(want)) || got.octets != int64(len(want)) {
				t.Errorf("%v body %q: not hashed as %q, %d octets", c, body, want, got.octets)
			}
			if m.hashBody(c) != m.bodies[c] {
				t.Errorf("%v body %q: the second time another hash", c, body)
			}
		}
	})
}

// native hides the type of a key, so that Go's crypto signs.
type native struct{ crypto.Signer }

func TestLibcryptoSignsTheSame(t *testing.T) {
	fast := newSigner(t, Key{"s1", "example.com", private(rsaKey())})
	slow := newSigner(t, Key{"s1", "example.com", private(native{rsaKey()})})
	got, err := fast.Sign(NewMessage(wire(message)), Request{})
	if err != nil {
		t.Fatal(err)
	}
	want, err := slow.Sign(NewMessage(wire(message)), Request{})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Header, want.Header) {
		t.Errorf("got %q, want %q", got.Header, want.Header)
	}
	_, missing := libcrypto.Version()
	if err := private(rsaKey()).LibcryptoError(); !errors.Is(err, missing) || missing == nil && err != nil {
		t.Errorf("LibcryptoError() = %v, want %v", err, missing)
	}
}

// TestKeyThatLibcryptoRefuses: Go's crypto signs, and LibcryptoError says so.
func TestKeyThatLibcryptoRefuses(t *testing.T) {
	key, err := rsa.GenerateMultiPrimeKey(rand.Reader, 3, 1024) //nolint:staticcheck // such keys exist in old files
	if err != nil {
		t.Fatal(err)
	}
	p := private(key)
	sig, err := newSigner(t, Key{"s1", "example.com", p}).Sign(NewMessage(wire(message)), Request{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verify(t, append(sig.Header, wire(message)...), "s1._domainkey.example.com", key); err != nil {
		t.Error(err)
	}
	if err := p.LibcryptoError(); err == nil {
		t.Errorf("LibcryptoError() = %v", err)
	}
}

// free is a key whose signatures cost nothing: what is left is the work on the message.
type free struct{ crypto.Signer }

func (free) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return make([]byte, 256), nil }

// sized returns a message of text lines.
func sized(octets int) []byte {
	var text bytes.Buffer
	text.Write(wire("From: a@example.com\nTo: b@to.example\nSubject: s\nDate: Thu, 1 Jan 2026 00:00:00 +0000\nMessage-ID: <1@example.com>\n\n"))
	for text.Len() < octets {
		text.WriteString("Seventy characters of text or so, as they stand in most of the mail.\r\n")
	}
	return text.Bytes()
}

// cpu returns the processor time that this process has used.
func cpu(tb testing.TB) time.Duration {
	tb.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkSign signs whole messages with RSA-2048: through libcrypto, with Go's crypto, and with
// a key that costs nothing; and with go-msgauth to compare. `openssl speed rsa2048` counts
// processor time, as messages/cpu-s does.
func BenchmarkSign(b *testing.B) {
	for _, kib := range []int{4, 50} {
		text := sized(kib << 10)
		for _, key := range []struct {
			name   string
			signer crypto.Signer
		}{{"libcrypto", rsaKey()}, {"go", native{rsaKey()}}, {"free", free{rsaKey()}}} {
			b.Run(fmt.Sprintf("%dKiB/%s", kib, key.name), func(b *testing.B) {
				s := newSigner(b, Key{"s1", "example.com", private(key.signer)})
				b.SetBytes(int64(len(text)))
				b.ReportAllocs()
				before := cpu(b)
				for b.Loop() {
					if _, err := s.Sign(NewMessage(text), Request{}); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N)/(cpu(b)-before).Seconds(), "messages/cpu-s")
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
