// Command centrifuge is a peer of subscriber.py's GET /stream: Centrifuge's own handler of Server-Sent Events, one
// publication per micro-batch with all its emojis.
package main

import (
	"encoding/json"
	"flag"
	"log"
	"net/http"
	"strconv"
	"strings"
	"time"

	"context"

	"benchmarks/measure"

	"github.com/IBM/sarama"
	"github.com/centrifugal/centrifuge"
)

const channel = "batches"

type count struct {
	Emoji           string `json:"emoji"`
	Count           int    `json:"count"`
	Events          int    `json:"events"`
	BatchID         int    `json:"batch_id,omitempty"`
	BatchEmojis     int    `json:"batch_emojis,omitempty"`
	FirstAcceptedMS int64  `json:"first_accepted_ms,omitempty"`
	LastAcceptedMS  int64  `json:"last_accepted_ms,omitempty"`
	BatchedMS       int64  `json:"batched_ms,omitempty"`
}

type batch struct {
	BatchID         int     `json:"batch_id"`
	Counts          []count `json:"counts"`
	FirstAcceptedMS int64   `json:"first_accepted_ms"`
	LastAcceptedMS  int64   `json:"last_accepted_ms"`
	BatchedMS       int64   `json:"batched_ms"`
}

func main() {
	port := flag.Int("port", 7101, "port on 127.0.0.1")
	brokers := flag.String("brokers", "localhost:9092", "comma-separated")
	topic := flag.String("topic", "cluster1-emoji-topic", "topic of counts")
	flag.Parse()

	node, err := centrifuge.New(centrifuge.Config{})
	measure.Check(err)
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{
			Credentials:   &centrifuge.Credentials{},
			Subscriptions: map[string]centrifuge.SubscribeOptions{channel: {}},
		}, nil
	})
	measure.Check(node.Run())
	go follow(node, strings.Split(*brokers, ","), *topic)
	// As ours: a sign of life every 15 s, that asks for no answer.
	ping := centrifuge.PingPongConfig{PingInterval: 15 * time.Second, PongTimeout: -1}
	http.Handle("/connection/sse", centrifuge.NewSSEHandler(node, centrifuge.SSEConfig{PingPongConfig: ping}))
	log.Fatal(http.ListenAndServe("127.0.0.1:"+strconv.Itoa(*port), nil))
}

// follow publishes each micro-batch that comes on the topic from now on, once all its records are there.
func follow(node *centrifuge.Node, brokers []string, topic string) {
	config := sarama.NewConfig()
	config.Version = sarama.V3_6_0_0
	config.Consumer.IsolationLevel = sarama.ReadCommitted
	consumer, err := sarama.NewConsumer(brokers, config)
	measure.Check(err)
	records := make(chan *sarama.ConsumerMessage, 256)
	partitions, err := consumer.Partitions(topic)
	measure.Check(err)
	for _, partition := range partitions {
		reader, err := consumer.ConsumePartition(topic, partition, sarama.OffsetNewest)
		measure.Check(err)
		go func() {
			for record := range reader.Messages() {
				records <- record
			}
		}()
	}
	begun := map[int]*batch{}
	for record := range records {
		var c count
		measure.Check(json.Unmarshal(record.Value, &c))
		b := begun[c.BatchID]
		if b == nil {
			b = &batch{c.BatchID, nil, c.FirstAcceptedMS, c.LastAcceptedMS, c.BatchedMS}
			begun[c.BatchID] = b
		}
		b.FirstAcceptedMS, b.LastAcceptedMS = min(b.FirstAcceptedMS, c.FirstAcceptedMS), max(b.LastAcceptedMS, c.LastAcceptedMS)
		b.Counts = append(b.Counts, count{Emoji: c.Emoji, Count: c.Count, Events: c.Events})
		if len(b.Counts) == c.BatchEmojis {
			delete(begun, c.BatchID)
			data, err := json.Marshal(b)
			measure.Check(err)
			_, err = node.Publish(channel, data)
			measure.Check(err)
		}
	}
}
