package libcrypto

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// available skips a test where OpenSSL 3 is missing, unless CAROM_REQUIRE_LIBCRYPTO is set.
func available(tb testing.TB) {
	tb.Helper()
	if _, err := Version(); err != nil {
		if os.Getenv("CAROM_REQUIRE_LIBCRYPTO") != "" {
			tb.Fatal(err)
		}
		tb.Skip(err)
	}
}

func generate(tb testing.TB, bits int) *rsa.PrivateKey {
	tb.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func newKey(tb testing.TB, native *rsa.PrivateKey) *Key {
	tb.Helper()
	k, err := NewKey(native)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func TestVersion(t *testing.T) {
	available(t)
	if v, err := Version(); err != nil || !strings.HasPrefix(v, "OpenSSL 3.") {
		t.Errorf("Version() = %q, %v", v, err)
	}
}

func TestSameBytesAsGo(t *testing.T) {
	available(t)
	for _, bits := range []int{1024, 1536, 2047, 2048, 3072, 4096} {
		native := generate(t, bits)
		k := newKey(t, native)
		if !native.PublicKey.Equal(k.Public()) {
			t.Errorf("%d bits: another public key", bits)
		}
		for n := range 20 {
			digest := sha256.Sum256([]byte{byte(n)})
			want, err := native.Sign(rand.Reader, digest[:], crypto.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			got, err := k.Sign(rand.Reader, digest[:], crypto.SHA256)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bits, digest %d: %x, %v, Go gives %x", bits, n, got, err, want)
			}
		}
		if err := k.Failure(); err != nil {
			t.Errorf("%d bits: %v", bits, err)
		}
	}
}

func TestGoDoesTheRest(t *testing.T) {
	available(t)
	native := generate(t, 2048)
	k := newKey(t, native)
	digest := sha512.Sum512([]byte("x"))
	got, err := k.Sign(rand.Reader, digest[:], crypto.SHA512)
	if err != nil {
		t.Fatal(err)
	}
	if err := rsa.VerifyPKCS1v15(&native.PublicKey, crypto.SHA512, digest[:], got); err != nil {
		t.Errorf("SHA-512: %v", err)
	}
	short := sha256.Sum256([]byte("x"))
	got, err = k.Sign(rand.Reader, short[:], &rsa.PSSOptions{Hash: crypto.SHA256})
	if err != nil {
		t.Fatal(err)
	}
	if err := rsa.VerifyPSS(&native.PublicKey, crypto.SHA256, short[:], got, nil); err != nil {
		t.Errorf("PSS: %v", err)
	}
	if _, err := k.Sign(rand.Reader, short[:31], crypto.SHA256); err == nil {
		t.Error("a digest of 31 octets is signed")
	}
	if err := k.Failure(); err != nil {
		t.Errorf("OpenSSL was asked: %v", err)
	}
}

func TestKeyIsPassedOnce(t *testing.T) {
	available(t)
	native := generate(t, 2048)
	k := newKey(t, native)
	if again := newKey(t, native); again != k {
		t.Error("one Go key gave two Keys")
	}
	if other := newKey(t, generate(t, 2048)); other == k {
		t.Error("two Go keys gave one Key")
	}
}

func TestKeyIsFreed(t *testing.T) {
	available(t)
	func() {
		digest := sha256.Sum256([]byte("x"))
		if _, err := newKey(t, generate(t, 1024)).Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
			t.Fatal(err)
		}
	}()
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		runtime.GC()
		keys.Lock()
		left := 0
		for _, k := range keys.byNative {
			if k.Value() == nil {
				left++
			}
		}
		unreachable := left
		left = len(keys.byNative)
		keys.Unlock()
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d keys left, %d of them unreachable", left, unreachable)
		}
	}
}

func TestRefusesBadKeys(t *testing.T) {
	available(t)
	native := generate(t, 1024)
	broken := *native
	broken.E = 3
	if _, err := NewKey(&broken); err == nil {
		t.Error("a key with a false exponent is taken")
	}
	multi, err := rsa.GenerateMultiPrimeKey(rand.Reader, 3, 1024) //nolint:staticcheck // such keys exist in old files
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewKey(multi); err == nil {
		t.Error("a key of three primes is taken")
	}
	if _, err := NewKey(&rsa.PrivateKey{}); err == nil {
		t.Error("an empty key is taken")
	}
}

func TestConcurrentUse(t *testing.T) {
	available(t)
	natives := []*rsa.PrivateKey{generate(t, 1024), generate(t, 1024)}
	var group sync.WaitGroup
	for g := range 16 {
		group.Go(func() {
			native := natives[g%2]
			for n := range 50 {
				k, err := NewKey(native)
				if err != nil {
					t.Error(err)
					return
				}
				var seed [8]byte
				binary.BigEndian.PutUint64(seed[:], uint64(g*1000+n))
				digest := sha256.Sum256(seed[:])
				got, err := k.Sign(rand.Reader, digest[:], crypto.SHA256)
				if err != nil {
					t.Error(err)
					return
				}
				if err := rsa.VerifyPKCS1v15(&native.PublicKey, crypto.SHA256, digest[:], got); err != nil {
					t.Error(err)
				}
				if err := k.Failure(); err != nil {
					t.Error(err)
				}
				if n%10 == 0 {
					runtime.GC() // ends Keys between two uses
				}
			}
		})
	}
	group.Wait()
}

// TestOff runs itself in a process that has the library switched off.
func TestOff(t *testing.T) {
	if os.Getenv(Env) == "off" {
		if _, err := NewKey(generate(t, 1024)); !errors.Is(err, ErrOff) {
			t.Errorf("error %v, want %v", err, ErrOff)
		}
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOff$", "-test.count=1")
	cmd.Env = append(os.Environ(), Env+"=off")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "PASS") {
		t.Errorf("%v: %s", err, out)
	}
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

// BenchmarkSign compares signatures with RSA-2048 on one core; `openssl speed rsa2048` is the
// third to compare. That counts processor time, as signatures/cpu-s does.
func BenchmarkSign(b *testing.B) {
	native := generate(b, 2048)
	digest := sha256.Sum256([]byte("x"))
	run := func(b *testing.B, signer crypto.Signer) {
		b.Helper()
		b.ReportAllocs()
		before := cpu(b)
		for b.Loop() {
			if _, err := signer.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)/(cpu(b)-before).Seconds(), "signatures/cpu-s")
	}
	b.Run("go", func(b *testing.B) { run(b, native) })
	b.Run("libcrypto", func(b *testing.B) {
		available(b)
		run(b, newKey(b, native))
	})
}

// BenchmarkSignParallel signs on all cores with many more goroutines than cores.
func BenchmarkSignParallel(b *testing.B) {
	available(b)
	k := newKey(b, generate(b, 2048))
	digest := sha256.Sum256([]byte("x"))
	b.SetParallelism(20)
	before := cpu(b)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := k.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "signatures/s")
	b.ReportMetric(float64(b.N)/(cpu(b)-before).Seconds(), "signatures/cpu-s")
}
