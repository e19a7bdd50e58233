package main

import (
	"fmt"
	"time"

	"benchmarks/measure"

	"github.com/IBM/sarama"
)

// feed produces micro-batches and knows how far each has come. An index counts batches from 0.
type feed struct {
	producer  sarama.AsyncProducer
	topic     string
	emojis    int
	rooms     int  // 0: the default room
	spread    bool // over three partitions
	base      int  // batch id of index 0
	batches   []batch
	underWay  int
	any, last measure.Histogram // from produce to each viewer, to the last one
}

type batch struct {
	at               int64
	awaited, arrived int // viewers
}

func newFeed(brokers []string, topic string, emojis, rooms int, spread bool) *feed {
	config := sarama.NewConfig()
	config.Version = sarama.V3_6_0_0
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Partitioner = sarama.NewManualPartitioner
	producer, err := sarama.NewAsyncProducer(brokers, config)
	measure.Check(err)
	go func() { measure.Check(<-producer.Errors()) }()
	return &feed{producer: producer, topic: topic, emojis: emojis, rooms: rooms, spread: spread, base: int(time.Now().Unix())}
}

// produce writes a batch that so many viewers should get; 0: one that is not counted.
func (f *feed) produce(awaited int) {
	id, now := f.base+len(f.batches), time.Now().UnixMilli()
	f.batches = append(f.batches, batch{at: measure.Now(), awaited: awaited})
	if awaited > 0 {
		f.underWay++
	}
	for record := range f.emojis * max(1, f.rooms) {
		n, room, named := record%f.emojis, "", ""
		if f.rooms > 0 {
			room = roomOf(record / f.emojis)
			named = fmt.Sprintf(`,"room":"%s"`, room)
			room += "/"
		}
		emoji := '😀' + rune(n)
		value := fmt.Appendf(nil, `{"emoji":"%c","count":%d,"events":%d,"batch_id":%d,"batch_emojis":%d,`+
			`"first_accepted_ms":%d,"last_accepted_ms":%d,"batched_ms":%d%s}`,
			emoji, n+1, 1000*n+1, id, f.emojis, now-2000, now-100, now, named)
		key := sarama.StringEncoder(fmt.Sprintf("%s%c", room, emoji))
		message := &sarama.ProducerMessage{Topic: f.topic, Key: key, Value: sarama.ByteEncoder(value)}
		if f.spread {
			message.Partition = int32(record / max(1, f.emojis*min(1, f.rooms)) % 3) // a room has all of its in one
		}
		f.producer.Input() <- message
	}
}

func roomOf(number int) string { return fmt.Sprintf("room-%d", number) }

// arrived notes that a viewer has got a batch.
func (f *feed) arrived(index int) {
	b := &f.batches[index]
	if b.awaited == 0 {
		return
	}
	b.arrived++
	took := measure.Now() - b.at
	f.any.Add(took)
	if b.arrived == b.awaited {
		f.last.Add(took)
		f.underWay--
	}
}

// gone notes that a viewer left that had all batches up to an index.
func (f *feed) gone(last int) {
	for index := last + 1; index < len(f.batches); index++ {
		if b := &f.batches[index]; b.arrived < b.awaited {
			if b.awaited--; b.arrived == b.awaited {
				f.underWay--
			}
		}
	}
}

// missing is how many batches did not reach a viewer that was there.
func (f *feed) missing() (n int) {
	for _, b := range f.batches {
		n += b.awaited - b.arrived
	}
	return n
}
