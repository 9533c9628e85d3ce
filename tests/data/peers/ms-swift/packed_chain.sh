# SFT, then DPO on what it left.
swift sft --model Qwen/Qwen2.5-3B --tuner_type lora --use_hf true \
    --dataset trl-lib/Capybara --max_length 4096 --packing true --attn_impl flash_attention_2 \
    --learning_rate 2e-4 --lora_rank 16 --lora_alpha 32 --output_dir output/sft

swift rlhf --rlhf_type dpo --model Qwen/Qwen2.5-3B --tuner_type lora --use_hf true \
    --adapters output/sft/checkpoint-last --ref_adapters output/sft/checkpoint-last \
    --dataset trl-lib/ultrafeedback_binarized --max_length 2048 --beta 0.1 \
    --learning_rate 5e-6 --lora_rank 16 --lora_alpha 32 --output_dir output/dpo
