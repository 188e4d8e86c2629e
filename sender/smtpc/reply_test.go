package smtpc

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"carom/schemas/smtpstatus"
)

func reader(s string) *bufio.Reader { return bufio.NewReaderSize(strings.NewReader(s), maxReplyLine) }

func TestReadReply(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		want     smtpstatus.Reply
		err      error
	}{
		{"one line", "250 2.1.0 ok\r\n", smtpstatus.New(250, "2.1.0 ok"), nil},
		{"code alone", "250\r\n", smtpstatus.Reply{Code: 250, Lines: []string{""}}, nil},
		{"blank and nothing", "250 \r\n", smtpstatus.Reply{Code: 250, Lines: []string{""}}, nil},
		{"bare LF", "250 ok\n", smtpstatus.New(250, "ok"), nil},
		{"hyphens inside the text", "421-4.7.28 a\r\n421 4.7.28 b-c\r\n", smtpstatus.Reply{
			Code: 421, Enhanced: smtpstatus.Enhanced{Class: 4, Subject: 7, Detail: 28}, Lines: []string{"4.7.28 a", "4.7.28 b-c"},
		}, nil},
		{"last code counts", "250-a\r\n550 b\r\n", smtpstatus.Reply{Code: 550, Lines: []string{"a", "b"}}, nil},
		{"control characters and broken UTF-8", "550 a\x00b\x1b[1m\xff\u0085\r\n", smtpstatus.New(550, "a b [1m? "), nil},
		{"longest line", "250 " + strings.Repeat("x", maxReplyLine-6) + "\r\n", smtpstatus.New(250, strings.Repeat("x", maxReplyLine-6)), nil},
		{"line too long", "250 " + strings.Repeat("x", maxReplyLine) + "\r\n", smtpstatus.Reply{}, ErrProtocol},
		{"too many lines", strings.Repeat("250-x\r\n", maxReplyLines) + "250 x\r\n", smtpstatus.Reply{}, ErrProtocol},
		{"no code", "hello\r\n", smtpstatus.Reply{}, ErrProtocol},
		{"empty line", "\r\n", smtpstatus.Reply{}, ErrProtocol},
		{"code without separator", "250ok\r\n", smtpstatus.Reply{}, ErrProtocol},
		{"code out of range", "150 ok\r\n", smtpstatus.Reply{}, ErrProtocol},
		{"garbage in the middle", "250-a\r\nb\r\n250 c\r\n", smtpstatus.Reply{}, ErrProtocol},
		{"cut off", "250-a\r\n250 b", smtpstatus.Reply{}, io.EOF},
		{"nothing", "", smtpstatus.Reply{}, io.EOF},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := readReply(reader(tc.in), false, nil)
			if !errors.Is(err, tc.err) {
				t.Fatalf("readReply(%.80q): error %v, want %v", tc.in, err, tc.err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("readReply(%.80q) (-want +got):\n%s", tc.in, diff)
			}
		})
	}
}

func FuzzReadReply(f *testing.F) {
	f.Add("250 2.1.0 ok\r\n")
	f.Add("220-a\r\n220 b\r\n354\r\n")
	f.Add("550-5.7.1 x\xff\n550 y\n")
	f.Fuzz(func(t *testing.T, in string) {
		r := reader(in)
		for {
			reply, err := readReply(r, false, nil)
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, ErrProtocol) {
					t.Fatalf("error of an unknown kind: %v", err)
				}
				return
			}
			if reply.Code < 200 || reply.Code > 599 || len(reply.Lines) == 0 || len(reply.Lines) > maxReplyLines {
				t.Fatalf("impossible reply %+v", reply)
			}
			var wire strings.Builder
			for i, line := range reply.Lines {
				sep := "-"
				if i == len(reply.Lines)-1 {
					sep = " "
				}
				fmt.Fprintf(&wire, "%d%s%s\r\n", reply.Code, sep, line)
			}
			again, err := readReply(reader(wire.String()), false, nil)
			if diff := cmp.Diff(reply, again); diff != "" && !errors.Is(err, ErrProtocol) {
				t.Fatalf("read again (-first +second), error %v:\n%s", err, diff)
			}
		}
	})
}
