package smtpc

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strings"

	"carom/schemas/smtpstatus"
)

const (
	// maxReplyLine is the longest reply line accepted, with its line end. RFC 5321 section
	// 4.5.3.1.5 allows 512 octets; servers that put URLs into their refusals exceed it.
	maxReplyLine = 4096
	// maxReplyLines bounds a multi-line reply. RFC 5321 sets no limit; real EHLO answers stay
	// under 30 lines.
	maxReplyLines = 128
)

// readReply reads one reply. r must have a buffer of maxReplyLine bytes. Where the codes of a
// multi-line reply differ, the last one counts, as with other MTAs (RFC 5321 section 4.2.1 wants
// them equal). Control characters and broken UTF-8 in the text are replaced.
//
// With terse, a good reply of one line comes without its text: nothing needs it but memory. Before
// the second line more is called, if it is not nil; its error ends the reading.
//
// A reply that is none gives ErrProtocol; other errors are the reader's.
func readReply(r *bufio.Reader, terse bool, more func() error) (smtpstatus.Reply, error) {
	var reply smtpstatus.Reply
	for i := range maxReplyLines {
		if i == 1 && more != nil {
			if err := more(); err != nil {
				return smtpstatus.Reply{}, err
			}
		}
		line, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return smtpstatus.Reply{}, fmt.Errorf("%w: reply line over %d bytes: %.60q", ErrProtocol, maxReplyLine, line)
		}
		if err != nil {
			return smtpstatus.Reply{}, err
		}
		line = bytes.TrimRight(line, "\r\n")
		code, ok := replyCode(line)
		if !ok {
			return smtpstatus.Reply{}, fmt.Errorf("%w: not a reply: %.60q", ErrProtocol, line)
		}
		reply.Code = code
		if terse && i == 0 && code < 400 && (len(line) == 3 || line[3] == ' ') {
			return reply, nil
		}
		text := ""
		if len(line) > 4 {
			text = cleanText(line[4:])
		}
		reply.Lines = append(reply.Lines, text)
		if len(line) == 3 || line[3] == ' ' {
			reply.Enhanced, _ = smtpstatus.ParseEnhanced(reply.Lines[0])
			return reply, nil
		}
	}
	return smtpstatus.Reply{}, fmt.Errorf("%w: reply of more than %d lines", ErrProtocol, maxReplyLines)
}

// replyCode returns the code of a reply line: three digits of which the first is 2 to 5, then a
// blank, a hyphen or the end (RFC 5321 section 4.2).
func replyCode(line []byte) (code int, ok bool) {
	if len(line) < 3 || len(line) > 3 && line[3] != ' ' && line[3] != '-' || line[0] < '2' || line[0] > '5' {
		return 0, false
	}
	for _, c := range line[:3] {
		if c < '0' || c > '9' {
			return 0, false
		}
		code = 10*code + int(c-'0')
	}
	return code, true
}

// cleanText returns text as a string fit for logs: it ends up in the accounting.
func cleanText(text []byte) string {
	s := strings.ToValidUTF8(string(text), "?")
	if strings.IndexFunc(s, isControl) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		if isControl(r) {
			return ' '
		}
		return r
	}, s)
}

func isControl(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }
