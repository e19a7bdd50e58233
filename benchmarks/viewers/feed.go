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

func newFeed(brokers []string, topic string, emojis int, spread bool) *feed {
	config := sarama.NewConfig()
	config.Version = sarama.V3_6_0_0
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Partitioner = sarama.NewManualPartitioner
	producer, err := sarama.NewAsyncProducer(brokers, config)
	measure.Check(err)
	go func() { measure.Check(<-producer.Errors()) }()
	return &feed{producer: producer, topic: topic, emojis: emojis, spread: spread, base: int(time.Now().Unix())}
}

// produce writes a batch that so many viewers should get; 0: one that is not counted.
func (f *feed) produce(awaited int) {
	id, now := f.base+len(f.batches), time.Now().UnixMilli()
	f.batches = append(f.batches, batch{at: measure.Now(), awaited: awaited})
	if awaited > 0 {
		f.underWay++
	}
	for n := range f.emojis {
		value := fmt.Appendf(nil, `{"emoji":"%c","count":%d,"events":%d,"batch_id":%d,"batch_emojis":%d,`+
			`"first_accepted_ms":%d,"last_accepted_ms":%d,"batched_ms":%d}`,
			'😀'+rune(n), n+1, 1000*n+1, id, f.emojis, now-2000, now-100, now)
		message := &sarama.ProducerMessage{Topic: f.topic, Value: sarama.ByteEncoder(value)}
		if f.spread {
			message.Partition = int32(n % 3)
		}
		f.producer.Input() <- message
	}
}

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
