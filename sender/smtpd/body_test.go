package smtpd

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// dataOf is the end of data by the letter of RFC 5321, without any care for speed: it returns the
// message in what follows DATA and what follows the message.
func dataOf(in string) (content, rest string, complete bool) {
	raw, rest, complete := strings.Cut("\r\n"+in, "\r\n.\r\n")
	if !complete {
		return "", "", false
	}
	for i, line := range strings.Split((raw + "\r\n")[2:], "\r\n") {
		if i > 0 {
			content += "\r\n"
		}
		content += strings.TrimPrefix(line, ".")
	}
	return content, rest, true
}

func isBare(s string) bool {
	return strings.ContainsAny(strings.ReplaceAll(s, "\r\n", ""), "\r\n")
}

// wireText draws what could be on the wire: much of what ends lines and messages, and long runs.
func wireText(t *rapid.T) string {
	pieces := rapid.SliceOfN(rapid.SampledFrom([]string{"\r", "\n", ".", "\r\n", "\r\n.", "\r\n..", "\n.\n", "\r.\r", "\r\n.\n", "\n.\r\n", "x", "yyyyyyy"}), 0, 40).Draw(t, "pieces")
	return strings.Join(pieces, "")
}

func TestBodyIsThatOfTheReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := wireText(t) + "\r\n.\r\n" + wireText(t)
		limit := rapid.IntRange(0, 300).Draw(t, "limit")
		size := rapid.IntRange(4, 20).Draw(t, "size")
		d := newBody(&buffer{make([]byte, headroom+size)}, limit, func(b *buffer) *buffer {
			larger := &buffer{make([]byte, min(2*len(b.b), headroom+limit+maxRead))}
			copy(larger.b, b.b)
			return larger
		})
		read, complete := 0, false
		for read < len(in) && !complete {
			n := copy(d.room(), in[read:read+rapid.IntRange(1, len(in)-read).Draw(t, "n")])
			read += n
			complete = d.take(n)
		}
		if !complete {
			t.Fatalf("no end in %q", in)
		}
		content, rest, _ := dataOf(in)
		if got := string(d.b[d.next:d.end]) + in[read:]; got != rest {
			t.Errorf("%q: rest %q, want %q", in, got, rest)
		}
		if len(content) > limit {
			if !errors.Is(d.lost, errBodyTooLarge) {
				t.Errorf("%q has %d octets, limit %d: %v", in, len(content), limit, d.lost)
			}
			return
		}
		if d.lost != nil {
			t.Fatalf("%q has %d octets, limit %d: %v", in, len(content), limit, d.lost)
		}
		if got := string(d.message().bytes()); got != content {
			t.Errorf("%q: got %q, want %q", in, got, content)
		}
		// What stands between the line ends that count is not changed, so it is bare before and after.
		if raw := in[:len(in)-len(rest)-len(".\r\n")]; d.bare != isBare(raw) {
			t.Errorf("%q: bare %t", raw, d.bare)
		}
		if got := hasBareNewline([]byte(content)); got != isBare(content) {
			t.Errorf("hasBareNewline(%q) = %t", content, got)
		}
	})
}

// A long line full of dots must not be read octet by octet when the buffer is nearly full.
func TestBodyOfStuffedDots(t *testing.T) {
	limit := 1 << 20
	var memory buffers
	d := newBody(memory.lend(headroom+1), limit, func(b *buffer) *buffer { return memory.exchange(b, headroom+limit+maxRead) })
	in := []byte(strings.Repeat("..\r\n", limit/4) + ".\r\n")
	reads := 0
	for read, complete := 0, false; !complete; reads++ {
		n := copy(d.room(), in[read:])
		read += n
		complete = d.take(n)
	}
	if got := d.message().bytes(); !bytes.Equal(got, bytes.Repeat([]byte(".\r\n"), limit/4)) {
		t.Errorf("%d octets, want %d", len(got), 3*limit/4)
	}
	if reads > 100 {
		t.Errorf("%d reads", reads)
	}
	memory.giveBack(d.buffer)
	if used := memory.used.Load(); used != 0 {
		t.Errorf("%d octets are still lent", used)
	}
}

func TestBuffersAreBounded(t *testing.T) {
	memory := buffers{limit: 100 << 10}
	a, b := memory.lend(10), memory.lend(60<<10)
	if a == nil || b == nil {
		t.Fatal("no memory within the bound")
	}
	if c := memory.lend(30 << 10); c != nil {
		t.Error("memory beyond the bound")
	}
	if c := memory.exchange(a, 1<<20); c != nil {
		t.Error("memory beyond the bound for one that grows")
	}
	memory.giveBack(b)
	if a = memory.exchange(a, 1<<20); a == nil || len(a.b) != 64<<10 {
		t.Error("no memory after some was given back")
	}
	memory.giveBack(a)
	if used := memory.used.Load(); used != 0 {
		t.Errorf("%d octets are still lent", used)
	}
}
