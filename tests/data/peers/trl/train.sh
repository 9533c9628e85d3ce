# Two commands in one file: the second goes on from the first.
MODEL=Qwen/Qwen2-0.5B
trl sft \
    --model_name_or_path $MODEL \
    --dataset_name trl-lib/Capybara \
    --learning_rate 2.0e-5 --max_length 2048 \
    --gradient_checkpointing --output_dir Qwen2-0.5B-SFT

trl dpo --model_name_or_path Qwen2-0.5B-SFT \
    --dataset_name trl-lib/ultrafeedback_binarized \
    --learning_rate 5.0e-7 --beta 0.1 \
    --num_train_epochs 1 \
    --per_device_train_batch_size 2 --gradient_accumulation_steps $((32 / 4)) \
    --eval_strategy steps --eval_steps 50 --no_remove_unused_columns \
    --output_dir Qwen2-0.5B-DPO
