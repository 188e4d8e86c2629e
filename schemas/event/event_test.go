package event

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"carom/schemas/smtpstatus"
	"carom/schemas/taxonomy"
)

var addresses = cmpopts.EquateComparable(netip.Addr{})

var update = flag.Bool("update", false, "rewrite the golden files")

// full returns an event with a value in every column.
func full() Event {
	e := Event{
		FormatVersion: FormatVersion, Time: time.Date(2026, 11, 23, 10, 11, 12, 345678000, time.UTC), Kind: Deferred,
		MessageID: uuid.MustParse("01936f3e-7c00-7abc-8def-0123456789ab"), RecipientIdx: 3, Recipients: 1,
		MailFrom: "news@shop.example", MailFromDomain: "shop.example", FromDomain: "shop.example", DKIMDomains: []string{"shop.example", "esp.example"},
		Recipient: "Ann@mail.example", RecipientDomain: "mail.example", RecipientKey: "00112233445566778899aabbccddeeff",
		Provider: "google", Source: "192.0.2.1", SourceIP: netip.MustParseAddr("192.0.2.1"), Queue: "mail.example/v1", VMTA: "v1", Pool: "p",
		EHLO: "out.shop.example", Job: "j1", EnvID: "env", Tenant: "shop", SMTPUser: "user", Listener: "127.0.0.1:25",
		ClientIP: netip.MustParseAddr("2001:db8::1"), ClientMTA: "feeder", MXHost: "mx.mail.example", MXIP: netip.MustParseAddr("198.51.100.7"),
		Attempt: 2, Phase: PhaseRcpt, Category: taxonomy.RateLimited, Class: taxonomy.Soft, Dimension: taxonomy.Rate, Scope: taxonomy.ScopeSource,
		ScopeValue: "192.0.2.1", ClassifierVersion: 7, PMTACategory: "policy-related", Size: 4096, Queued: time.Hour, DNS: time.Millisecond,
		Connect: 2 * time.Millisecond, TLS: 3 * time.Millisecond, Transfer: 4 * time.Millisecond,
		Mail: 5 * time.Millisecond, Rcpt: 6 * time.Millisecond, Data: 7 * time.Millisecond, Body: 8 * time.Millisecond, FinalDot: 9 * time.Millisecond, TLSVersion: "TLS 1.3", TLSCipher: "TLS_AES_128_GCM_SHA256",
		OpenConnections: 5, MessageOnConn: 6, ConnectionID: uuid.MustParse("01936f3e-7c00-7abc-8def-0123456789ac"), LimitEpoch: 9, LimitActor: "loop",
		LimitReason: "r1", LimitingScope: "lease", Canary: true, FeedbackType: "abuse", ReportingMTA: "mta.example", MatchMethod: "return-path",
		MatchConfidence: 0.5, OriginalMessageID: uuid.MustParse("01936f3e-7c00-7abc-8def-0123456789ad"), OriginalIdx: 4, ConfigHash: 1 << 60,
		Headers:    map[string]string{"X-A": "1", "X-B": strings.Repeat("long ", 40)},
		HoldExempt: true, URLHosts: []string{"cdn.example", "www.shop.example"},
	}
	e.SetReply(smtpstatus.New(421, "4.7.28 try again later"))
	return e
}

func TestEveryColumnSurvives(t *testing.T) {
	want := full()
	for _, c := range Columns[placeColumns:] {
		if value := c.Value(&want); cmp.Equal(value, c.Value(&Event{}), addresses) {
			t.Errorf("full() leaves column %s empty: its encoding is not tested", c.Name)
		}
	}
	var got Event
	if err := Decode(Encode(nil, &want), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, addresses); diff != "" {
		t.Errorf("Decode(Encode(e)) differs (-want +got):\n%s", diff)
	}
}

func TestGaugesAndAnnotationSurvive(t *testing.T) {
	gauge := Gauge{FormatVersion: 1, Time: time.UnixMicro(1).UTC(), Provider: "google", Source: "192.0.2.1", Backlog: 3, LocalFactor: 0.25, StaticRate: 12.5, BackoffByConfig: true}
	var gotGauge Gauge
	if err := DecodeGauge(EncodeGauge(nil, &gauge), &gotGauge); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(gauge, gotGauge); diff != "" {
		t.Errorf("gauge differs (-want +got):\n%s", diff)
	}
	queue := QueueGauge{
		FormatVersion: 1, Time: time.UnixMicro(1).UTC(), Queue: "mail.example/v1", VMTA: "v1", Provider: "google", Source: "192.0.2.1",
		Tenant: "shop", Job: "j1", Queues: 1, Ready: 2, Waiting: 3, Held: 4, Paused: 5, Estimated: true, OldestAge: 6, Backoff: true,
		LimitScope: "queue", Limit: "max-msg-rate 5/s", LimitBy: "config:3", ConfigHash: 7,
	}
	for _, c := range QueueGaugeColumns[placeColumns:] {
		if cmp.Equal(c.Value(&queue), c.Value(&QueueGauge{})) {
			t.Errorf("the queue gauge leaves column %s empty: its encoding is not tested", c.Name)
		}
	}
	var gotQueue QueueGauge
	if err := DecodeQueueGauge(EncodeQueueGauge(nil, &queue), &gotQueue); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(queue, gotQueue); diff != "" {
		t.Errorf("queue gauge differs (-want +got):\n%s", diff)
	}
	note := Annotation{FormatVersion: 1, Time: time.UnixMicro(2).UTC(), Name: "start", Text: "node started", Tags: []string{"a", ""}}
	var gotNote Annotation
	if err := DecodeAnnotation(EncodeAnnotation(nil, &note), &gotNote); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(note, gotNote); diff != "" {
		t.Errorf("annotation differs (-want +got):\n%s", diff)
	}
}

// TestGoldenRecord holds the bytes on disk still: a change here is a new format.
func TestGoldenRecord(t *testing.T) {
	e := full()
	got := []byte(hex.Dump(Encode(nil, &e)))
	path := filepath.Join("testdata", "event.v1.hex")
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("record differs from %s:\n%s", path, got)
	}
}

func TestDecodeSkipsUnknownTrailingFields(t *testing.T) {
	want := full()
	record := appendItem(appendItem(Encode(nil, &want), "a column of the future"), "and its neighbour")
	var got Event
	if err := Decode(record, &got); err != nil {
		t.Fatal(err)
	}
	if got.Recipient != want.Recipient || got.ConfigHash != want.ConfigHash {
		t.Errorf("got %+v", got)
	}
}

func TestDecodeRefuses(t *testing.T) {
	e := full()
	record := Encode(nil, &e)
	for _, tc := range []struct {
		name   string
		record []byte
	}{
		{"empty", nil},
		{"version 0", []byte{0}},
		{"cut in a value", record[:40]},
		{"length beyond the end", []byte{1, 0xff, 0xff, 0xff, 0xff, 0x0f}},
		{"unknown kind", append([]byte{1, 1, 1, 0}, 1, 200)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := Decode(tc.record, &Event{}); !errors.Is(err, ErrMalformed) {
				t.Errorf("Decode = %v, want ErrMalformed", err)
			}
		})
	}
}

func TestRoundTripProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Event{
			FormatVersion: FormatVersion,
			Time:          time.UnixMicro(rapid.Int64Range(1, 1<<52).Draw(t, "time")).UTC(),
			Kind:          rapid.SampledFrom(Kinds()).Draw(t, "kind"),
			Phase:         rapid.SampledFrom(Phases()).Draw(t, "phase"),
			Reply:         rapid.String().Draw(t, "reply"),
			DKIMDomains:   rapid.SliceOfN(rapid.String(), 1, 5).Draw(t, "domains"),
			Headers:       rapid.MapOfN(rapid.String(), rapid.String(), 1, 5).Draw(t, "headers"),
			LimitEpoch:    rapid.Uint64().Draw(t, "epoch"),
		}
		var got Event
		if err := Decode(Encode(nil, &want), &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, addresses); diff != "" {
			t.Fatalf("differs (-want +got):\n%s", diff)
		}
	})
}

func FuzzDecode(f *testing.F) {
	e := full()
	f.Add(Encode(nil, &e))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, record []byte) {
		var first, second Event
		if Decode(record, &first) != nil {
			return
		}
		if err := Decode(Encode(nil, &first), &second); err != nil {
			t.Fatalf("what Encode wrote is refused: %v", err)
		}
	})
}

func TestReplyTemplate(t *testing.T) {
	for _, tc := range []struct{ reply, want string }{
		{"550 5.1.1 <bob@example.com>: no such user", "550 5.1.1 <<addr>>: no such user"},
		{"421 4.7.0 [TSS04] Messages from 192.0.2.7 temporarily deferred", "421 4.7.0 [TSS04] Messages from <ip> temporarily deferred"},
		{"451 4.7.650 rate limited due to IP reputation. (S775) [AM6EUR05FT0123]", "451 4.7.650 rate limited due to IP reputation. (S775) [<id>]"},
		{"452 too many messages, wait 300 seconds", "452 too many messages, wait <n> seconds"},
		{"", ""},
	} {
		t.Run(tc.reply, func(t *testing.T) {
			if got := ReplyTemplate(tc.reply); got != tc.want {
				t.Errorf("ReplyTemplate(%q) = %q, want %q", tc.reply, got, tc.want)
			}
		})
	}
	if got := ReplyTemplate(strings.Repeat("ü ", 5000)); len(got) > maxTemplate {
		t.Errorf("template of %d bytes", len(got))
	}
}

func TestSourceKey(t *testing.T) {
	for ip, want := range map[string]string{"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8:1:2:3::4": "2001:db8:1:2::/64"} {
		if got := SourceKey(netip.MustParseAddr(ip)); got != want {
			t.Errorf("SourceKey(%s) = %q, want %q", ip, got, want)
		}
	}
	if got := SourceKey(netip.Addr{}); got != "" {
		t.Errorf("SourceKey of no address = %q", got)
	}
}

func BenchmarkEncode(b *testing.B) {
	e := full()
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = Encode(buf[:0], &e)
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkDecode(b *testing.B) {
	e := full()
	record := Encode(nil, &e)
	b.SetBytes(int64(len(record)))
	b.ReportAllocs()
	for b.Loop() {
		if err := Decode(record, &e); err != nil {
			b.Fatal(err)
		}
	}
}
