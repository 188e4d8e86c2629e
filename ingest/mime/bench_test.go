package mime

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/emersion/go-message"
)

// usual is a report of the usual size, 4.5 KB: text, fields, and the header of a message.
var usual = func() []byte {
	trace := strings.Repeat("Received: from out1.shop.example (out1.shop.example [192.0.2.7])\n\tby mx.mail.example (Postfix) with ESMTPS id 4XyZ1234\n\tfor <ann@mail.example>; Mon, 23 Nov 2026 12:00:00 +0000 (UTC)\n", 3)
	return []byte(crlf("Return-Path: <>\n" + trace + `Date: Mon, 23 Nov 2026 12:00:01 +0000 (UTC)
From: MAILER-DAEMON@mx.mail.example (Mail Delivery System)
Subject: Undelivered Mail Returned to Sender
To: b-4711-abcdefghijklmnopqrstuvwxyz@bounce.shop.example
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
	boundary="4XyZ1234.1795435201/mx.mail.example"
Message-Id: <20261123120001.4XyZ1235@mx.mail.example>

This is a MIME-encapsulated message.

--4XyZ1234.1795435201/mx.mail.example
Content-Description: Notification
Content-Type: text/plain; charset=us-ascii

This is the mail system at host mx.mail.example.

I'm sorry to have to inform you that your message could not be delivered to one or more recipients.

<ann@mail.example>: host store.mail.example[192.0.2.9] said: 550 5.1.1
    <ann@mail.example>: Recipient address rejected: User unknown in virtual
    mailbox table (in reply to RCPT TO command)

--4XyZ1234.1795435201/mx.mail.example
Content-Description: Delivery report
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.mail.example
X-Postfix-Queue-ID: 4XyZ1234
X-Postfix-Sender: rfc822; b-4711-abcdefghijklmnopqrstuvwxyz@bounce.shop.example
Arrival-Date: Mon, 23 Nov 2026 12:00:00 +0000 (UTC)

Final-Recipient: rfc822; ann@mail.example
Original-Recipient: rfc822;ann@mail.example
Action: failed
Status: 5.1.1
Remote-MTA: dns; store.mail.example
Diagnostic-Code: smtp; 550 5.1.1 <ann@mail.example>: Recipient address
    rejected: User unknown in virtual mailbox table

--4XyZ1234.1795435201/mx.mail.example
Content-Description: Undelivered Message
Content-Type: message/rfc822
Content-Transfer-Encoding: 8bit

` + trace + `DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=shop.example; s=s1;
	t=1795435200; h=From:To:Subject:Date:Message-ID; bh=` + strings.Repeat("Ab0=", 11) + `;
	b=` + strings.Repeat("Cd1/", 86) + `
From: Shop <news@shop.example>
To: ann@mail.example
Subject: Autumn
Date: Mon, 23 Nov 2026 11:59:59 +0000
Message-ID: <4711.1@shop.example>
List-Unsubscribe: <https://shop.example/u/4711>
Content-Type: text/html; charset=utf-8

` + strings.Repeat("<p>A line of the message that nobody got.</p>\n", 18) + `
--4XyZ1234.1795435201/mx.mail.example--
`))
}()

func BenchmarkParse(b *testing.B) {
	b.SetBytes(int64(len(usual)))
	b.ReportAllocs()
	for b.Loop() {
		m, err := Parse(usual, Limits{})
		if err != nil || len(m.Parts) != 3 {
			b.Fatal(err)
		}
		for range Fields(m.Parts[1].Body) {
		}
		m.Original()
	}
}

// BenchmarkGoMessage walks the same report with go-message and reads its bodies: no fields of the
// part for machines, and nothing of the returned message.
func BenchmarkGoMessage(b *testing.B) {
	b.SetBytes(int64(len(usual)))
	b.ReportAllocs()
	for b.Loop() {
		entity, err := message.Read(bytes.NewReader(usual))
		if err != nil {
			b.Fatal(err)
		}
		leaves := 0
		err = entity.Walk(func(_ []int, e *message.Entity, err error) error {
			if err != nil || e.MultipartReader() != nil {
				return err
			}
			leaves++
			_, err = io.Copy(io.Discard, e.Body)
			return err
		})
		if err != nil && !errors.Is(err, io.EOF) || leaves != 3 {
			b.Fatal(leaves, err)
		}
	}
}
