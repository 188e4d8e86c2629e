package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"carom/sender/dkim"
)

// The figures of the scenario dkim.
const (
	signRate      = "signatures of one thread, a CPU second"
	opensslRate   = "openssl speed rsa2048, a CPU second"
	signRatio     = "sign rate ratio"
	signAll       = "signatures of all CPUs"
	signedAllowed = "relay with signing, of what that allows"
)

// dkimSection makes the node sign with a key in its folder.
const dkimSection = `domain-key bench,source.test,dkim.pem
<domain *>
    dkim-sign yes
</domain>
`

// measureDKIM compares the relay with and without signing, and signing alone with openssl's speed
// test, which makes the same signatures and nothing else.
func measureDKIM(ctx context.Context, l *lab, m *Measured) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048) // what RFC 8301 section 3.2 asks of signers
	if err != nil {
		return err
	}
	private, err := dkim.NewPrivateKey(key)
	if err != nil {
		return err
	}
	keys, err := dkim.NewKeys([]dkim.Key{{Selector: "bench", Domain: "source.test", Source: private}})
	if err != nil {
		return err
	}
	signer, err := dkim.NewSigner(keys, dkim.Options{})
	if err != nil {
		return err
	}
	openssl, err := exec.LookPath("openssl")
	hasOpenSSL := err == nil
	signing := server{name: "carom, signing", missing: nothing, start: func(ctx context.Context, st *stage) (*running, error) {
		if err := writeKey(filepath.Join(st.dir, "dkim.pem"), key); err != nil {
			return nil, err
		}
		return startCarom(ctx, st, dkimSection+relayTo(st.sinkAddr))
	}}
	alone := server{name: "carom, not signing", missing: nothing, start: caromRelay.start}
	c := comparison{bytes: 4 << 10, relay: true, servers: []server{signing, alone}}
	c.beside = func(ctx context.Context, l *lab, m *Measured) error {
		if err := m.signAlone(ctx, signer, l.signSeconds()); err != nil {
			return err
		}
		if hasOpenSSL {
			return m.openssl(ctx, openssl, l.signSeconds())
		}
		return nil
	}
	if err := c.measure(ctx, l, m); err != nil {
		return err
	}
	if !hasOpenSSL {
		m.skip(signRatio, "there is no openssl (Debian's package openssl)")
	}
	// What a message costs is the relay's share of the machine and the signature's.
	all, _ := m.figure(signAll)
	allowed := 1 / (1/m.Servers[1].Rate + 1/all.Median)
	m.add(signedAllowed, "", m.Servers[0].Rate/allowed)
	return nil
}

// signSeconds is how long to sign; openssl takes whole seconds.
func (l *lab) signSeconds() int {
	if l.Short {
		return 1
	}
	return 3
}

func writeKey(file string, key *rsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// signAlone signs a message of 4 KiB again and again: whole signatures, with canonicalization and
// hashes, of one thread and then of as many as there are CPUs.
func (m *Measured) signAlone(ctx context.Context, signer *dkim.Signer, seconds int) error {
	message := []byte("From: sender@source.test\r\nTo: recipient@sink.test\r\nSubject: bench\r\n\r\n" + strings.Repeat(strings.Repeat("X", 78)+"\r\n", 50))
	period := time.Duration(seconds) * time.Second
	before, err := ownCPU()
	if err != nil {
		return err
	}
	n, _, err := signFor(ctx, signer, message, 1, period)
	if err != nil {
		return err
	}
	after, err := ownCPU()
	if err != nil {
		return err
	}
	m.add(signRate, "/s", float64(n)/(after-before).Seconds())
	n, took, err := signFor(ctx, signer, message, runtime.NumCPU(), period)
	if err != nil {
		return err
	}
	m.add(signAll, "/s", float64(n)/took.Seconds())
	return nil
}

// signFor signs in so many goroutines and returns how many signatures they made in which time.
func signFor(ctx context.Context, signer *dkim.Signer, message []byte, goroutines int, period time.Duration) (int64, time.Duration, error) {
	var made atomic.Int64
	began := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for range goroutines {
		g.Go(func() error {
			for time.Since(began) < period && ctx.Err() == nil {
				if _, err := signer.Sign(dkim.NewMessage(message), dkim.Request{}); err != nil {
					return fmt.Errorf("sign: %w", err)
				}
				made.Add(1)
			}
			return context.Cause(ctx)
		})
	}
	err := g.Wait()
	return made.Load(), time.Since(began), err
}

// ownCPU returns the CPU time of this process.
func ownCPU() (time.Duration, error) {
	var r syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()), err
}

// openssl runs openssl's own speed test, which counts CPU time and not what the clock says.
func (m *Measured) openssl(ctx context.Context, program string, seconds int) error {
	ctx, cancel := limited(ctx, time.Minute+10*time.Duration(seconds)*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "speed", "-seconds", strconv.Itoa(seconds), "rsa2048").Output() //nolint:gosec // a fixed name
	if err != nil {
		return fmt.Errorf("openssl speed: %w", err)
	}
	theirs, err := parseSpeed(out)
	if err != nil {
		return fmt.Errorf("openssl speed: %w", err)
	}
	m.add(opensslRate, "/s", theirs)
	ours, _ := m.last(signRate)
	m.add(signRatio, "", ratio(ours, theirs))
	return nil
}

// parseSpeed returns the signatures a second of one key in the output of openssl speed rsa2048:
// the line "rsa 2048 bits", seconds to sign and to verify, and how many a second of each.
func parseSpeed(out []byte) (float64, error) {
	for line := range bytes.Lines(out) {
		f := strings.Fields(string(line))
		if len(f) == 7 && f[0] == "rsa" && f[1] == "2048" {
			return strconv.ParseFloat(f[5], 64)
		}
	}
	return 0, errors.New("no line of rsa 2048 in its output")
}
